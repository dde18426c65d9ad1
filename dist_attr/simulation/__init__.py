"""The training run under DeepSpeed with the simulation beside it, or a descent from a finished model, on Ray actors.

Design decisions:
- An actor is a data-parallel DeepSpeed worker AND the owner of a shard of the sources. It trains on its part of each
  global batch, and simulates its sources on the whole of it.
- Our own actors rather than Ray Train's worker group: the driver leads all actors in short strides, which gives
  progress, loss, drift checks and Ctrl-C without a word from inside the loop, lets every actor do other work (its own
  sources) and fail with its own exception. Ray Train reports through a call that blocks for seconds, and wraps errors.
- DeepSpeed's parameters are the truth; the simulation has to agree with them at every check or the run is stopped.
- A descent from a finished model is led through the same driver, by a kind of actor that trains nothing.
- The store is declared complete last of all: whatever interrupts a run leaves nothing that looks finished.
"""

from dist_attr.simulation.estimate import Estimate
from dist_attr.simulation.planning import plan
from dist_attr.simulation.reports import Progress, SimulationReport, StrideReport
from dist_attr.simulation.run import simulate

__all__ = ["Estimate", "Progress", "SimulationReport", "StrideReport", "plan", "simulate"]
