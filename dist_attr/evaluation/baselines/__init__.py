"""Other methods of attribution, each by its own library, behind one small contract.

A baseline is a value that holds its settings and is called with what it may look at:

    trained = language_model(retraining, [model.state_dict()])
    scores = TracIn()(trained)          # (queries, sources), positive for a proponent

Design decisions:
- A query's output is log p, what `evaluate` measures, whatever the method; an example's loss is minus that.
- `GRIDS` says which settings of each method are tried. Choosing among them is the benchmark's business.
- Libraries are loaded when a baseline is called; the extra `baselines` has them.
"""

from __future__ import annotations

from collections.abc import Sequence

from dist_attr.evaluation.baselines.contract import Baseline, Piece, Predictions, Task, Trained
from dist_attr.evaluation.baselines.gradient_dot import gradient_dot
from dist_attr.evaluation.baselines.similarity import Similarity
from dist_attr.evaluation.baselines.tasks import CausalLanguage, Classification, classifier, language_model
from dist_attr.evaluation.baselines.tracin import TracIn

GRIDS: dict[str, Sequence[Baseline]] = {
    "TracIn": (TracIn(), TracIn(cosine=True)),
    "representation similarity": (Similarity("cosine"), Similarity("dot")),
}

__all__ = [
    "GRIDS",
    "Baseline",
    "CausalLanguage",
    "Classification",
    "Piece",
    "Predictions",
    "Similarity",
    "Task",
    "TracIn",
    "Trained",
    "classifier",
    "gradient_dot",
    "language_model",
]
