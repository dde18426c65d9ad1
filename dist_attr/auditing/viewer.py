"""An audit in the layout that viewers of training data attribution read: a JSON line for each answer.

The fields are those of the results published with "Scalable Influence and Fact Tracing for Large Language Model
Pretraining" (arXiv 2410.17413), whose viewer shows them. There proponents are passages; here they are sources, so that
texts and ids are both their names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from dist_attr.auditing.queries import AuditQuery
from dist_attr.auditing.shares import Floats

MOST = 10  # sources of an answer, for and against


def viewer_lines(queries: Sequence[AuditQuery], sources: Sequence[str], effects: Floats) -> bytes:
    """The file's content, its lines in the order of the queries.

    Args:
        queries: that were audited.
        sources: names.
        effects: (queries, sources), nats; they are the scores of the file.
    """
    return b"".join(_line(query, sources, row) for query, row in zip(queries, effects, strict=True))


def _line(query: AuditQuery, sources: Sequence[str], effects: Floats) -> bytes:
    falling = np.argsort(-effects, kind="stable")
    proponents = [i for i in falling[:MOST] if effects[i] > 0]
    opponents = [i for i in falling[: -MOST - 1 : -1] if effects[i] < 0]
    fields: dict[str, Any] = {
        "example_id": query.name,
        "query_set": query.group or "",
        "inputs_plaintext": query.prompt,
        "targets_plaintext": query.completion,
    }
    for kind, chosen in (("proponent", proponents), ("opponent", opponents)):
        names = [sources[i] for i in chosen]
        scores = [round(float(effects[i]), 6) for i in chosen]
        fields |= {f"{kind}s": names, f"{kind}_ids": names, f"{kind}_scores": scores}
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"
