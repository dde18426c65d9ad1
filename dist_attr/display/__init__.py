"""What people look at: progress, tables and heat maps in the terminal, and a page with the same.

An evaluation has its own module, `evaluation`, which loads Ray: only one command shows one.
"""

from dist_attr.display.comparison import show_comparison, write_comparison
from dist_attr.display.page import write_page
from dist_attr.display.plan import show_plan
from dist_attr.display.store import bytes_in_each_codec, rows_progress, show_store
from dist_attr.display.tensorboard import tensorboard
from dist_attr.display.terminal import heat_map, run_progress, show_answer, steps_progress

__all__ = [
    "bytes_in_each_codec",
    "heat_map",
    "rows_progress",
    "run_progress",
    "show_answer",
    "show_comparison",
    "show_plan",
    "show_store",
    "steps_progress",
    "tensorboard",
    "write_comparison",
    "write_page",
]
