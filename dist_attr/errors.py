"""Errors a user can act on.

Everything that a user may get wrong (a file, a setting, a query, a store that belongs to another model) is reported as
a `DistAttrError`: what was wrong, where, and what to do. The commands print its text without a traceback and exit
with 1, the service turns it into a problem+json answer. Any other exception is a defect of this package.
"""


class DistAttrError(Exception):
    """Base of all errors that are addressed to the user."""


class ConfigError(DistAttrError):
    """A setting is unknown, out of range or does not fit another setting."""


class CorpusError(DistAttrError):
    """The documents or the tokenizer cannot be used as they are."""


class ModelError(DistAttrError):
    """The model cannot be built, or is of a kind whose derivatives are not tested here."""


class StoreError(DistAttrError):
    """The influence store is missing, unfinished, damaged, or belongs to another model."""


class DamagedError(StoreError):
    """Bytes of the influence store are not those that were written."""


class QueryError(DistAttrError):
    """A query cannot be scored as it stands."""


class SimulationError(DistAttrError):
    """The training run or the simulation beside it went wrong and was stopped."""


class DivergenceError(SimulationError):
    """The simulation of one source went out of bounds; the others are not concerned."""


class WorkerLostError(SimulationError):
    """A worker of the run is gone: its process was killed, or its node."""


class UnavailableError(DistAttrError):
    """The service cannot answer now; it may later."""


class BusyError(UnavailableError):
    """More is asked than can be answered at once.

    Args:
        message: what is the matter.
        retry_after: seconds until it is worth asking again.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after
