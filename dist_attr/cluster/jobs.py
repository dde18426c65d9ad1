"""Ray jobs: a command that runs on a cluster, on its own, whatever becomes of the machine it was submitted from.

Ray's own `ray job list`, `logs`, `status` and `stop` work with these jobs; here is only what they need at their start
and while somebody watches. A job is stopped with SIGINT, as by Ctrl-C, and given time, so that a run keeps what it has.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from dist_attr.errors import ConfigError, DistAttrError, UnavailableError

STOPPING = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "120"}
PATIENCE = 60.0  # seconds for which a head node that does not answer is asked again
LAST_LINES = 20
NOT_FOUND = 127  # what a shell says of a command it does not have


class Jobs:
    """The jobs of one cluster.

    Args:
        address: http(s)://HOST:PORT of the dashboard on the head node.

    Raises:
        UnavailableError: nobody answers there.
        ConfigError: the address is of another kind, what answers is no Ray cluster, or it wants another token.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        if not address.startswith(("http://", "https://")):
            raise ConfigError(
                f"{address} is not the address of a cluster's dashboard; it has the form http://HOST:8265"
            )
        # Ray would take the cluster that these name instead of the one asked for.
        names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
        others = {name: os.environ.pop(name) for name in names if name in os.environ}
        # What is sent was chosen file by file.
        os.environ["RAY_RUNTIME_ENV_IGNORE_GITIGNORE"] = "1"
        for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
            logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
        try:
            self._client = JobSubmissionClient(address)
        except OSError as error:
            raise UnavailableError(
                f"no Ray cluster answers at {address} ({type(error).__name__}); is it running, and its dashboard "
                "reachable from here? Behind a firewall: ray dashboard CLUSTER.yaml, or kubectl port-forward"
            ) from error
        except AuthenticationError as error:
            raise ConfigError(
                f"the cluster at {address} asks for its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH, in the environment here"
            ) from error
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConfigError(f"what answers at {address} is not a Ray cluster that takes jobs: {error}") from error
        finally:
            os.environ.update(others)

    def submit(
        self, command: Sequence[str], *, folder: Path, runtime_env: Mapping[str, Any], environment: Mapping[str, str]
    ) -> str:
        """Start a command on the head node.

        Args:
            command: the words of the command.
            folder: what is sent along; the job's working directory is a copy of it.
            runtime_env: more of Ray's runtime environment.
            environment: variables of the job, beside those in the runtime environment.

        Returns:
            The job's id.

        Raises:
            UnavailableError: the cluster did not take it.
        """
        variables = {**STOPPING, **runtime_env.get("env_vars", {}), **environment}
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self._client.submit_job(
                    entrypoint=shlex.join(command),
                    runtime_env={**runtime_env, "working_dir": str(folder), "env_vars": variables},
                )
            except (OSError, RuntimeError, ValueError) as error:
                # A cluster that has just started says so for some seconds.
                if "try again later" not in str(error) or time.monotonic() > end:
                    raise UnavailableError(f"the cluster at {self.address} did not take the job: {error}") from error
            time.sleep(1)

    def follow(self, job: str, write: Callable[[str], object]) -> None:
        """Pass on what a job prints until it has ended well.

        Args:
            job: its id.
            write: takes pieces of its output, each once, also where the connection is lost in between.

        Raises:
            DistAttrError: it failed, with its exit code and the end of its output, or was stopped.
            UnavailableError: the head node does not answer any more; the job may go on.
        """
        written = 0
        silent_since: float | None = None

        async def listen() -> None:
            nonlocal written, silent_since
            seen = 0
            async for piece in self._client.tail_job_logs(job):
                silent_since = None
                seen += len(piece)
                if seen > written:
                    write(piece[max(0, len(piece) - (seen - written)) :])
                    written = seen

        while True:
            try:
                asyncio.run(listen())
                if (status := self._client.get_job_status(job)).is_terminal():
                    break
                silent_since = None
            except (OSError, RuntimeError, ClientError) as error:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > PATIENCE:
                    raise UnavailableError(
                        f"the cluster at {self.address} does not answer any more ({error}); if its head node lives, "
                        f"job {job} goes on: {self.how_to_follow(job)}"
                    ) from error
            time.sleep(1)
        if status != JobStatus.SUCCEEDED:
            raise DistAttrError(self._what_went_wrong(job, status))

    def how_to_follow(self, job: str) -> str:
        """The command of Ray that shows a job's output."""
        return shlex.join(["ray", "job", "logs", "--address", self.address, "--follow", job])

    def how_to_stop(self, job: str) -> str:
        """The command of Ray that stops a job."""
        return shlex.join(["ray", "job", "stop", "--address", self.address, job])

    def _what_went_wrong(self, job: str, status: JobStatus) -> str:
        if status == JobStatus.STOPPED:
            return f"job {job} was stopped; submitted again, it goes on from what it has kept"
        info = self._client.get_job_info(job)
        if info.driver_exit_code is None:
            return f"job {job} did not start, or was lost with its node: {info.message}"
        said = f"job {job} failed with exit code {info.driver_exit_code}. "
        if info.driver_exit_code == NOT_FOUND:
            said += "dist-attr is not installed on the cluster: take the image of cluster/Dockerfile on all nodes. "
        return "\n".join([f"{said}The end of its output:", *self._client.get_job_logs(job).splitlines()[-LAST_LINES:]])
