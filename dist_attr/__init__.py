"""Attribute a language model's answers to the sources of its training data, with forward passes only.

The names below are loaded when they are first used, so that importing the package takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dist_attr.config import ProbeConfig, RunConfig
    from dist_attr.errors import DistAttrError
    from dist_attr.probing import Passages, Prober
    from dist_attr.readout import Attribution, Attributor, Query, calibrate
    from dist_attr.serving.client import AsyncClient, Client
    from dist_attr.simulation import simulate
    from dist_attr.store import InfluenceStore, open_store

__all__ = [
    "AsyncClient",
    "Attribution",
    "Attributor",
    "Client",
    "DistAttrError",
    "InfluenceStore",
    "Passages",
    "ProbeConfig",
    "Prober",
    "Query",
    "RunConfig",
    "calibrate",
    "open_store",
    "simulate",
]

_PLACES = {
    "AsyncClient": "serving.client",
    "Attribution": "readout",
    "Attributor": "readout",
    "Client": "serving.client",
    "DistAttrError": "errors",
    "InfluenceStore": "store",
    "Passages": "probing",
    "ProbeConfig": "config",
    "Prober": "probing",
    "Query": "readout",
    "RunConfig": "config",
    "calibrate": "readout",
    "open_store": "store",
    "simulate": "simulation",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'dist_attr' has no attribute {name!r}")
    return getattr(import_module(f"dist_attr.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_PLACES]
