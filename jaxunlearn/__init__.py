"""Recommendation unlearning for JAX: the public names, in the order in which a reader needs them.

The contract is `base.py`. What is not here is internal, or lies in the modules at the end of `__all__`: more readers
and splits in `data`, more metrics in `metrics`. The pure function below a method is in the method's file:
`from jaxunlearn.unlearn import lightul; lightul.unlearn(…)`. Importing starts no device and reads no file.
"""

from __future__ import annotations

from jaxunlearn import checkpoint, data, metrics, models, partition, unlearn
from jaxunlearn.aggregate import AggregateConfig
from jaxunlearn.base import Batch, Embeddings, Model, Scorer, Unlearner, UnlearnResult, scorer_of
from jaxunlearn.calibration import Calibration, calibrate
from jaxunlearn.data import (
  Dataset,
  Interactions,
  SyntheticConfig,
  Vocabulary,
  generate,
  hold_out,
  load,
  random_split,
  sample_forget,
)
from jaxunlearn.exactness import ExactReport, verify_exact
from jaxunlearn.metrics import RankingEvaluator, completeness_auc, completeness_probe, evaluate
from jaxunlearn.models import (
  BPRMFConfig,
  LightGCNConfig,
  NeuMFConfig,
  WMFConfig,
  bprmf,
  frozen,
  lightgcn,
  neumf,
  popularity,
  wmf,
)
from jaxunlearn.recipes import Recipe, recipe
from jaxunlearn.recommend import Recommendations, recommend
from jaxunlearn.requests import Request
from jaxunlearn.shards import Placement
from jaxunlearn.train import FitResult, TrainConfig, fit, fit_with_selection
from jaxunlearn.unlearn.finetune import FinetuneConfig, finetune
from jaxunlearn.unlearn.gradient_ascent import GradientAscentConfig, gradient_ascent
from jaxunlearn.unlearn.grapheraser import GraphEraserConfig, grapheraser
from jaxunlearn.unlearn.ifru import IFRUConfig, ifru
from jaxunlearn.unlearn.l2unrank import L2UnRankConfig, l2unrank
from jaxunlearn.unlearn.laser import LASERConfig, laser
from jaxunlearn.unlearn.lightul import LightULConfig, ServedState, lightul
from jaxunlearn.unlearn.receraser import RecEraserConfig, receraser
from jaxunlearn.unlearn.retrain import ModelState, retrain
from jaxunlearn.unlearn.rownewton import RowNewtonConfig, rownewton
from jaxunlearn.unlearn.sisa import SISAConfig, sisa

__version__ = "0.1.0"

__all__ = [
  # the contract
  "Batch",
  "Embeddings",
  "Model",
  "Scorer",
  "UnlearnResult",
  "Unlearner",
  "scorer_of",
  # data
  "Interactions",
  "Vocabulary",
  "Dataset",
  "load",
  "SyntheticConfig",
  "generate",
  "random_split",
  "hold_out",
  "sample_forget",
  # models
  "BPRMFConfig",
  "bprmf",
  "WMFConfig",
  "wmf",
  "LightGCNConfig",
  "lightgcn",
  "NeuMFConfig",
  "neumf",
  "popularity",
  "frozen",
  # training
  "TrainConfig",
  "FitResult",
  "fit",
  "fit_with_selection",
  "Recipe",
  "recipe",
  # unlearning
  "Request",
  "retrain",
  "ModelState",
  # unlearning by construction: exact (given the partition)
  "SISAConfig",
  "sisa",
  "GraphEraserConfig",
  "grapheraser",
  "RecEraserConfig",
  "receraser",
  "LASERConfig",
  "laser",
  "AggregateConfig",
  "Placement",
  "verify_exact",
  "ExactReport",
  # unlearning after the fact: approximate
  "LightULConfig",
  "lightul",
  "ServedState",
  "IFRUConfig",
  "ifru",
  "L2UnRankConfig",
  "l2unrank",
  "RowNewtonConfig",
  "rownewton",
  "FinetuneConfig",
  "finetune",
  "GradientAscentConfig",
  "gradient_ascent",
  "calibrate",
  "Calibration",
  # metrics
  "RankingEvaluator",
  "evaluate",
  "completeness_probe",
  "completeness_auc",
  # serving
  "Recommendations",
  "recommend",
  # modules
  "checkpoint",
  "data",
  "metrics",
  "models",
  "partition",
  "unlearn",
]
