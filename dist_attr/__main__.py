"""`python -m dist_attr` is the command `dist-attr`."""

from dist_attr.cli import main

main()
