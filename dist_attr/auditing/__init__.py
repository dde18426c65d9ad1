"""Audits: which sources the answers of a model rest on, over many answers, as shares with their uncertainty.

Design decisions:
- Scores are read out by the same engine as everywhere else, on a pool of actors fed by Ray Data, and each part of them
  is written once, by whoever read it out. Nothing finished is lost, and nothing is counted twice.
- Shares are reckoned from the files, not from what is in memory: whoever has the folder can do it again.
- A figure never stands without its intervals, and what could not be found out is said in words beside it.
"""

from dist_attr.auditing.audit import audit
from dist_attr.auditing.duplicates import SharedDocuments, SharedExample, shared_documents
from dist_attr.auditing.game import Game
from dist_attr.auditing.highlights import Highlight, Highlights, read_highlights
from dist_attr.auditing.probing import source_means
from dist_attr.auditing.queries import AuditQuery, read_audit_queries
from dist_attr.auditing.result import (
    Audit,
    AuditedSource,
    Measure,
    Scope,
    ShareTable,
    SourceShare,
    read_audit,
    read_scores,
)
from dist_attr.auditing.shares import FEWEST, Figure, Shares, fidelity_of, net_effect, positive_share, shares

__all__ = [
    "FEWEST",
    "Audit",
    "AuditQuery",
    "AuditedSource",
    "Figure",
    "Game",
    "Highlight",
    "Highlights",
    "Measure",
    "Scope",
    "ShareTable",
    "SharedDocuments",
    "SharedExample",
    "Shares",
    "SourceShare",
    "audit",
    "fidelity_of",
    "net_effect",
    "positive_share",
    "read_audit",
    "read_audit_queries",
    "read_highlights",
    "read_scores",
    "shared_documents",
    "shares",
    "source_means",
]
