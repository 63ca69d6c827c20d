"""Hyper-parameters of L2UnRank."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxunlearn._validate import (
  check_choice,
  check_fraction,
  check_integers,
  check_non_negative,
  check_positive,
  check_preset,
)
from jaxunlearn.train import TrainConfig

_STEPS = {"bprmf": 1.5, "wmf": 1.25, "lightgcn": 1.6}
_DAMPING = {"neumf": 0.02}


@dataclasses.dataclass(frozen=True, kw_only=True)
class L2UnRankConfig:
  """Hyper-parameters; `L2UnRankConfig.preset(model, train_config)` takes over what the training has to say."""

  hops: int = 0  # p of the scope; the paper: 0 for factor models, 1 for graph models; ≥ 0
  degree_weight: float = 0.5  # α of structural influence, in [0, 1]
  score_weight: float = 0.5  # β of semantic influence, in [0, 1]; both 0: the plain influence function
  high_impact_ratio: float = 1.0  # share of S_p, by weight, that the Hessian is taken on, in (0, 1]
  loss: str = "train"  # "train": the model's own loss; "bpr": BPR whatever it was trained by, a demotion step
  num_negatives: int = 8  # negatives of a forgotten pair, drawn once, ≥ 1
  pairs_per_row: int = 64  # the Hessian is taken on so many pairs of S_p a moving row, drawn and weighed up; 0: on all
  curvature_negatives: int = 1  # negatives of a retained pair in the Hessian, drawn once, ≥ 1
  negative_roles: int = 16  # retained pairs outside S_p for which a scoped item is the negative, an item, ≥ 0
  curvature: str = "gauss_newton"  # or "hessian", which is indefinite and so may need much damping
  damping: float = 1e-4  # L2 added per example of a row to the curvature, ≥ 0
  step: float = 1.0  # η, factor of the step, > 0; 1 is the theory, the preset has what demotes as Retrain does
  row_cap: float = 3.0  # longest change of a row, in lengths of the row, > 0
  max_iterations: int = 10  # of conjugate gradient, ≥ 1
  tolerance: float = 1e-2  # relative residual at which it stops, > 0
  move: str = "both"  # rows that move: "both", "users", "items"
  spillover: bool = True  # graph models: count the change of the retained pairs' loss through the graph
  user_weight_power: float = 0.5  # a pair weighs (degree of its user)^−power, as in TrainConfig; not for WMF; ≥ 0
  train_negatives: int = 4  # negatives a pair had in training, which matters to NeuMF's loss alone, ≥ 1

  def __post_init__(self) -> None:
    check_integers(self)
    check_choice("loss", self.loss, ("train", "bpr"))
    check_choice("curvature", self.curvature, ("gauss_newton", "hessian"))
    check_choice("move", self.move, ("both", "users", "items"))
    for name in ("degree_weight", "score_weight", "high_impact_ratio"):
      check_fraction(name, getattr(self, name), closed=True)
    for name in (
      "high_impact_ratio", "num_negatives", "curvature_negatives", "step", "row_cap", "max_iterations", "tolerance",
      "train_negatives",
    ):  # fmt: skip
      check_positive(name, getattr(self, name))
    for name in ("hops", "pairs_per_row", "negative_roles", "damping", "user_weight_power"):
      check_non_negative(name, getattr(self, name))

  @classmethod
  def preset(cls, model: str, train_config: TrainConfig | None = None, **changes: Any) -> L2UnRankConfig:
    """The paper's scope for a model (1 hop for LightGCN, else 0), and weights as in training; `changes` override.

    The step of bprmf, wmf and lightgcn is longer than in theory: the Gauss-Newton matrix shrinks it. 1.5, 1.25 and 1.6
    bring the AUC of completeness to Retrain's on ml-1m, 1 % of the interactions, seed 0, and are held fixed on
    everything else. neumf's training ends far from a minimum, so without damping the step forgets far too much; 0.02
    puts forgotten items out of the top 50 as often as retraining does, chosen likewise; larger requests cost more
    (10 % of the pairs: 8 % of NDCG@20, with 0.05 3 %, and then too few items leave). By scores, as `calibrate` looks at
    them, 0.02 forgets too much and 0.05 what retraining does (BUILD_NOTES, "Calibration").
    """
    check_preset(model, (*_STEPS, *_DAMPING))
    given: dict[str, Any] = {"hops": 1 if model == "lightgcn" else 0, "step": _STEPS.get(model, 1.0)}
    if model in _DAMPING:
      given["damping"] = _DAMPING[model]
    if train_config is not None:
      given["user_weight_power"] = train_config.user_weight_power
      given["train_negatives"] = train_config.num_negatives
    return cls(**{**given, **changes})
