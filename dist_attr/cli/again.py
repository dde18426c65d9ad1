"""The command line that does the same again, for what has to say how it was made."""

from __future__ import annotations

import shlex

import typer


def command_line(context: typer.Context) -> str:
    """The command that is running, with its arguments and all options that were given another value than by default."""
    words = ["dist-attr", str(context.info_name)]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif value != parameter.default:
            given = value if isinstance(value, list | tuple) else [value]
            words += [word for one in given for word in (parameter.opts[0], *([] if one is True else [str(one)]))]
    return shlex.join(words)
