"""The figures of scripts/icp_regression.py and scripts/icp_selection.py. The same figures make the same file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.icp_linear import DOMAINS


def draw_agreement(results: list[dict[str, Any]], methods: Sequence[str], file: Path) -> None:
    """Spearman's correlation by pairs: a row of panels for each noise, a column for each kind of query."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "icp_regression"  # the same figures make the same file
    from matplotlib import pyplot as plt

    noises = list(dict.fromkeys(r["noise"] for r in results))
    figure, axes = plt.subplots(
        len(noises), len(DOMAINS), figsize=(12, 3 * len(noises)), sharex=True, sharey=True, squeeze=False
    )
    for noise, line in zip(noises, axes, strict=True):
        rows = [r for r in results if r["noise"] == noise]
        for domain, axis in zip(DOMAINS, line, strict=True):
            for number, method in enumerate(methods):
                found = [r["agreement"][domain][method]["Spearman"] for r in rows]
                x, values = (
                    [r["pairs"] for r in rows],
                    np.array([[np.nan if v is None else v for v in f] for f in found]),
                )
                axis.plot(x, values[:, 0], marker="os^vD"[number], markersize=5, label=method)
                axis.fill_between(x, values[:, 1], values[:, 2], alpha=0.15)
            axis.set(title=f"query: {domain}; noise {noise}", xticks=[r["pairs"] for r in rows])
            axis.axhline(0, color="0.6", linewidth=0.8)
            axis.grid(alpha=0.3)
        line[0].set_ylabel("Spearman")
    for axis in axes[-1]:
        axis.set_xlabel("pairs")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncols=len(methods), fontsize="small")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def draw_gains(rows: list[dict[str, Any]], methods: Sequence[str], target: str, file: Path) -> None:
    """Gains with their intervals, best and worst side by side."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "icp_selection"  # the same figures make the same file
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4))
    for number, end in enumerate(("best", "worst", "any")):
        own = [row for row in rows if row["end"] == end]
        places = [methods.index(row["method"]) + 0.15 * (number - 0.5) * (end != "any") for row in own]
        values = np.array([(row["gain"] * 3)[:3] for row in own])
        reach = np.abs(values[:, 1:] - values[:, :1]).T
        axis.errorbar(values[:, 0], places, xerr=reach, fmt="o^s"[number], label=end, capsize=3)
    axis.axvline(0, color="0.6", linewidth=0.8)
    axis.set_yticks(range(len(methods)), methods)
    axis.set_xlabel(f"gain on held-out queries, nats a token; {target}")
    axis.invert_yaxis()
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
