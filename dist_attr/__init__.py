"""dist_attr."""
