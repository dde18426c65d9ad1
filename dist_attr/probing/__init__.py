"""In-context probing, and its agreement with influence."""

from dist_attr.probing.agreement import agreement
from dist_attr.probing.figures import Agreement

__all__ = ["Agreement", "agreement"]
