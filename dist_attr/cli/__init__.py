"""The command line: one thin file per command.

Commands import what they need when they run, so that `dist-attr --help` is there at once.
"""

from __future__ import annotations

import sys

import typer

from dist_attr.cli.audit import audit
from dist_attr.cli.calibrate import calibrate
from dist_attr.cli.compare import compare
from dist_attr.cli.copy import copy
from dist_attr.cli.demo import demo
from dist_attr.cli.evaluate import evaluate
from dist_attr.cli.inspect import inspect
from dist_attr.cli.merge import merge
from dist_attr.cli.plan import plan
from dist_attr.cli.query import query
from dist_attr.cli.rm import rm
from dist_attr.cli.serve import serve
from dist_attr.cli.simulate import simulate
from dist_attr.cli.submit import submit
from dist_attr.cli.verify import verify
from dist_attr.errors import DistAttrError

app = typer.Typer(
    name="dist-attr",
    help="Which sources of the training data made a language model say this?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (
    demo,
    plan,
    simulate,
    inspect,
    query,
    calibrate,
    evaluate,
    compare,
    audit,
    serve,
    verify,
    copy,
    merge,
    rm,
):
    app.command()(command)
# Its own options come first; whatever follows the name of a command belongs to that.
app.command(context_settings={"allow_interspersed_args": False})(submit)


def main() -> None:
    """Run the command line; an error that is addressed to the user is printed without a traceback, exit code 1."""
    try:
        app()
    except DistAttrError as error:
        from rich.console import Console

        Console(stderr=True).print(f"[bold red]error:[/] {_escaped(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
