"""`dist-attr submit`: a command that runs on a Ray cluster, as a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# They serve, write to the folder they are in, or ask; none of that does in a job.
NOT_AS_JOBS = ("demo", "serve", "submit")


def submit(
    context: typer.Context,
    command: Annotated[
        list[str], typer.Argument(help="any of the commands with its own options", metavar="COMMAND ARGUMENTS")
    ],
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="the cluster's dashboard, http://HOST:8265")
    ],
    shared: Annotated[
        list[Path] | None,
        typer.Option(help="a folder that all nodes have under this path; repeat it for more", metavar="FOLDER"),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(help="pass this variable of the environment on; repeat it for more", metavar="NAME"),
    ] = None,
    runtime_env: Annotated[
        str | None, typer.Option(help="YAML of Ray's runtime environment: pip, env_vars, ...", metavar="FILE")
    ] = None,
    wait: Annotated[bool, typer.Option(help="follow the job until it ends; exit code 1 if it fails")] = True,
) -> None:
    """Run any other command on a Ray cluster, and follow it. Ctrl-C leaves the job running.

    The run file and the queries it reads, and the local files that these name, are sent along; what it writes has to go
    to object storage or to a folder that all nodes have.

    Example: [bold]dist-attr submit --address http://head:8265 simulate run.yaml[/]

    Example: [bold]dist-attr submit --address http://head:8265 --env AWS_PROFILE evaluate run.yaml --protocol lds[/]
    """
    import os
    import sys
    from tempfile import TemporaryDirectory

    import yaml

    from dist_attr.cli.interruption import interruptible
    from dist_attr.cluster.jobs import Jobs
    from dist_attr.cluster.shipment import pack
    from dist_attr.errors import ConfigError

    name, *arguments = command
    commands = {
        known: one
        for known, one in getattr(context.find_root().command, "commands", {}).items()
        if known not in NOT_AS_JOBS
    }
    if name not in commands:
        raise typer.BadParameter(f"{name!r} cannot run as a job; these can: {', '.join(commands)}")
    parameters = commands[name].make_context(name, list(arguments), parent=context.find_root()).params

    if missing := [variable for variable in env or () if variable not in os.environ]:
        raise ConfigError(f"--env {missing[0]}: there is no such variable in the environment here")
    settings = {}
    if runtime_env is not None:
        try:
            settings = yaml.safe_load(Path(runtime_env).read_text("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read the runtime environment {runtime_env}: {error}") from error
        if not isinstance(settings, dict) or "working_dir" in settings:
            raise ConfigError(
                f"{runtime_env} has to be a mapping without working_dir, which is what the command reads, and no more"
            )
    jobs = Jobs(address)
    with TemporaryDirectory() as folder:
        sent = pack(parameters, [path.absolute() for path in shared or ()], Path(folder))
        job = jobs.submit(
            ["dist-attr", name, *arguments],
            folder=Path(folder),
            runtime_env=settings,
            environment={variable: os.environ[variable] for variable in env or ()},
        )
    files = f", with {', '.join(map(str, sent))}" if sent else ""
    then = f"follow it with  {jobs.how_to_follow(job)}\nstop it with    {jobs.how_to_stop(job)}"
    typer.echo(f"job {job} is submitted to {address}{files}", err=True)
    if not wait:
        typer.echo(job)
        typer.echo(then, err=True)
        return
    with interruptible(f"job {job} goes on\n{then}"):
        jobs.follow(job, lambda text: (sys.stdout.write(text), sys.stdout.flush()))
    typer.echo(f"job {job} succeeded", err=True)
