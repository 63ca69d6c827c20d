"""Fine-tuning: train on for a stated budget, on the retained pairs alone. A baseline, and the first thing one tries.

Three layers: `unlearn` (pure function), `finetune` (the `Unlearner`), `experiments/unlearn.py` (the script).
"""

from __future__ import annotations

import dataclasses
import time

import jax

from jaxunlearn._validate import check_finite, check_positive, check_tables, check_trained, check_whole
from jaxunlearn.base import Model, Params, Unlearner, UnlearnResult
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.requests import retained_of
from jaxunlearn.train import TrainConfig, fit
from jaxunlearn.unlearn.retrain import ModelState, post_hoc


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
  """The budget; all else is as the model was trained."""

  num_epochs: int = 5  # passes over the retained pairs, ≥ 1
  learning_rate: float | None = None  # step size, > 0; None: that of the training

  def __post_init__(self) -> None:
    check_whole("num_epochs", self.num_epochs)
    if self.learning_rate is not None:
      check_positive("learning_rate", self.learning_rate)


def unlearn(
  key: jax.Array,
  model: Model,
  params: Params,
  interactions: Interactions,
  forget: Interactions,
  config: FinetuneConfig | None = None,
  *,
  train_config: TrainConfig | None = None,
  progress: bool | None = None,
) -> UnlearnResult:
  """Trains `params` on, with a fresh optimizer, on the pairs that are retained.

  Args:
    key: of the epochs' orders and negatives.
    model: any that is trained.
    params: its trained parameters.
    interactions: what it was trained on, the forgotten pairs included.
    forget: pairs of `interactions`.
    config: the budget.
    train_config: batch size, optimizer, negatives and the rest; the default training when None.
    progress: as for `train.fit`.

  Returns:
    UnlearnResult: a `ModelState`, and info: epochs, loss of the last one, seconds.

  Raises:
    ValueError: the model is not trained; a parameter is not finite; the loss becomes so; nothing is retained; a pair
      was not trained on.

  Guarantee: none. What the parameters hold of the forgotten pairs fades at the speed of training, if at all: nothing
  pushes it out. A forgotten user's row has no loss left and is returned as it was (dense Adam moves no row without a
  gradient, and the optimizer is fresh). A long enough budget is retraining from a bad start. LightGCN's graph is
  that of the retained pairs, in training and when served.

  Cost: `num_epochs` epochs over the retained pairs.
  """
  config, training = config or FinetuneConfig(), train_config or TrainConfig()
  check_trained("finetune", model)
  check_tables(params, interactions)
  check_finite("params", params)
  start = time.perf_counter()
  retained = retained_of(interactions, forget)
  if not len(forget):
    return UnlearnResult(ModelState(params, interactions), {"num_forgotten": 0, "seconds": 0.0})
  rate = training.learning_rate if config.learning_rate is None else config.learning_rate
  budget = dataclasses.replace(training, num_epochs=config.num_epochs, learning_rate=rate)
  result = fit(key, model, retained, budget, params=params, progress=progress, label=f"fine-tune {model.name}")
  check_finite("the fine-tuned parameters", result.params)
  info = {
    "num_forgotten": len(forget),
    "epochs": result.num_epochs,
    "loss": result.history[-1]["loss"] if result.history else None,
    "seconds": time.perf_counter() - start,
  }
  return UnlearnResult(ModelState(result.params, retained), info)


def finetune(
  model: Model,
  train_config: TrainConfig | None = None,
  config: FinetuneConfig | None = None,
  *,
  progress: bool | None = None,
) -> Unlearner:
  """Fine-tuning as an `Unlearner`; guarantee (none) and costs as in `unlearn`.

  Args:
    model: any model.
    train_config: for `fit`, and for the epochs of a request.
    config: the budget of a request.
    progress: as for `train.fit`.
  """
  training = train_config or TrainConfig()

  def forget_pairs(key: jax.Array, state: ModelState, forget: Interactions) -> UnlearnResult:
    return unlearn(
      key, model, state.params, state.interactions, forget, config, train_config=training, progress=progress
    )

  return post_hoc("finetune", model, training, forget_pairs, progress=progress)
