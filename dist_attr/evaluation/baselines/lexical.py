"""BM25, by bm25s: which sources share words with the query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dist_attr.evaluation.baselines.contract import Trained
from dist_attr.probing.lexical import LexicalIndex


@dataclass(frozen=True)
class BM25:
    """The BM25 score of a source's pieces for a query's prompt and completion. No pass of the model.

    Attributes:
        pooled: "best" is that of the piece that is most like the query, "sum" that of all pieces together.
    """

    pooled: Literal["best", "sum"] = "best"

    def __call__(self, trained: Trained) -> NDArray[np.float64]:
        """See `Baseline`."""
        index = LexicalIndex(trained.task.texts(trained.examples, context=False))
        queries = trained.task.texts(trained.queries, context=True)
        of, rows = trained.sources.cpu().numpy(), np.zeros((len(queries), trained.source_count))
        pool = np.maximum if self.pooled == "best" else np.add
        for row, query in zip(rows, queries, strict=True):
            pool.at(row, of, index.scores(query))
        return rows
