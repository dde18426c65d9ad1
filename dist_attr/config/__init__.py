"""Every setting of a run, validated once at the edge.

Design decisions:
- Frozen pydantic models; an unknown key is an error, never ignored.
- Each setting has a default that works; `RunConfig()` without arguments is a complete run on the built-in example.
- What is resolved here (the tokenizer that goes with a model path) is written to `run.yaml`, so that a finished run
  states everything it was made with and runs again.
- A leaf: no other room parses input, and this one imports none of them.
"""

from dist_attr.config.auditing import AuditConfig
from dist_attr.config.base import Settings, absolute_url
from dist_attr.config.corpus import CorpusConfig, ExampleName, TokenizerConfig, TrainTokenizer
from dist_attr.config.evaluation import EvaluationConfig, ProtocolName, TruthName
from dist_attr.config.model import LoraConfig, ModelConfig
from dist_attr.config.probing import TEMPLATE, ChoiceName, ProbeConfig
from dist_attr.config.readout import ReadoutName
from dist_attr.config.run import RunConfig
from dist_attr.config.service import Held, ServiceConfig
from dist_attr.config.simulation import ClusterConfig, DescentConfig, MethodName, SimulationConfig
from dist_attr.config.store import CodecName, StoreConfig
from dist_attr.config.training import OptimizerName, PrecisionName, ScheduleName, TrainingConfig

__all__ = [
    "TEMPLATE",
    "AuditConfig",
    "ChoiceName",
    "ClusterConfig",
    "CodecName",
    "CorpusConfig",
    "DescentConfig",
    "EvaluationConfig",
    "ExampleName",
    "Held",
    "LoraConfig",
    "MethodName",
    "ModelConfig",
    "OptimizerName",
    "PrecisionName",
    "ProbeConfig",
    "ProtocolName",
    "ReadoutName",
    "RunConfig",
    "ScheduleName",
    "ServiceConfig",
    "Settings",
    "SimulationConfig",
    "StoreConfig",
    "TokenizerConfig",
    "TrainTokenizer",
    "TrainingConfig",
    "TruthName",
    "absolute_url",
]
