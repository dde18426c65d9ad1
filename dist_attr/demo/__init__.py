"""The whole path on a built-in corpus, and a check that its answers make sense."""

from dist_attr.demo.run import run_demo

__all__ = ["run_demo"]
