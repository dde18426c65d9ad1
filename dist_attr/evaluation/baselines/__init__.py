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
from dist_attr.evaluation.baselines.ekfac import Ekfac
from dist_attr.evaluation.baselines.gradient_dot import gradient_dot
from dist_attr.evaluation.baselines.influence import InfluenceCG, InfluenceLiSSA
from dist_attr.evaluation.baselines.lexical import BM25
from dist_attr.evaluation.baselines.similarity import Similarity
from dist_attr.evaluation.baselines.tasks import CausalLanguage, Classification, classifier, language_model
from dist_attr.evaluation.baselines.tracin import TracIn
from dist_attr.evaluation.baselines.trak import Trak

DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0)

GRIDS: dict[str, Sequence[Baseline]] = {
    "TRAK": [Trak(dimension) for dimension in (64, 128, 256, 512, 1024, 2048)],
    "IF-CG": [InfluenceCG(damping) for damping in DAMPINGS],
    "IF-LiSSA": [InfluenceLiSSA(damping) for damping in DAMPINGS],
    "EK-FAC": [Ekfac(damping) for damping in (1e-5, 1e-4, *DAMPINGS)],
    "TracIn": [TracIn(), TracIn(cosine=True)],
    "representation similarity": [Similarity("cosine"), Similarity("dot")],
    "BM25": [BM25("best"), BM25("sum")],
}

__all__ = [
    "BM25",
    "GRIDS",
    "Baseline",
    "CausalLanguage",
    "Classification",
    "Ekfac",
    "InfluenceCG",
    "InfluenceLiSSA",
    "Piece",
    "Predictions",
    "Similarity",
    "Task",
    "TracIn",
    "Trained",
    "Trak",
    "classifier",
    "gradient_dot",
    "language_model",
]
