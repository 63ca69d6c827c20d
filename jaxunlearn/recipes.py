"""Named training recipes: one fixed, tuned setting a model, on which methods are compared; and LightUL's own.

Numbers measured with them are in BUILD_NOTES ("Base models"). The base recipe decides everything downstream, Retrain's
AUC included, so a result names its recipe.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from jaxunlearn._validate import check_choice
from jaxunlearn.base import Model
from jaxunlearn.models import CONFIGS, BPRMFConfig, LightGCNConfig, NeuMFConfig, WMFConfig, build
from jaxunlearn.train import TrainConfig

RECIPES = ("tuned", "lightul", "shards", "user-shards")


class Recipe(NamedTuple):
  """A model's configuration (None for popularity) and how it is trained; for shards also how they are aggregated."""

  model_config: Any
  train_config: TrainConfig
  aggregate_train: TrainConfig | None = None  # "shards": of static weights and attention
  mean_weight: float | None = None  # "user-shards": `AggregateConfig.mean_weight` of "combined"; None: its default

  def model(self, name: str) -> Model:
    """The model of that name with this configuration."""
    return build(name, self.model_config)


_TUNED: dict[str, Recipe] = {
  "bprmf": Recipe(BPRMFConfig(), TrainConfig(learning_rate=2e-3, num_epochs=200)),
  "wmf": Recipe(
    WMFConfig(unobserved_weight=0.4, l2=0.1), TrainConfig(learning_rate=2e-3, batch_size=256, num_epochs=200)
  ),
  "lightgcn": Recipe(LightGCNConfig(l2=1e-3), TrainConfig(learning_rate=2e-2, batch_size=8192, num_epochs=150)),
  "neumf": Recipe(NeuMFConfig(), TrainConfig(learning_rate=1e-3, num_negatives=4, num_epochs=60)),
  "popularity": Recipe(None, TrainConfig()),
}

# LightUL's released training code: N(0, 1) rows, unfiltered negatives, last parameters, 60 epochs of patience.
_LIGHTUL_TRAIN = TrainConfig(
  learning_rate=5e-3, batch_size=512, num_epochs=2000, average=0.0, user_weight_power=0.0, avoid_positives=False,
  eval_every=5, patience=12,
)  # fmt: skip
_LIGHTUL: dict[str, Recipe] = {
  "bprmf": Recipe(BPRMFConfig(init_scale=1.0, l2=1e-4, loss="double_sigmoid"), _LIGHTUL_TRAIN),
  "lightgcn": Recipe(LightGCNConfig(init_scale=1.0, l2=1e-4), _LIGHTUL_TRAIN),
}

# Submodels see a tenth of the pairs: row-sparse steps that cost by the batch and not by the table, negatives from the
# shard's own items (BUILD_NOTES, "Shards"). Chosen on a validation part of ml-1m-receraser's train, seed 0.
_AGGREGATE = TrainConfig(num_epochs=20, batch_size=16384, learning_rate=3e-2)
_SHARDS: dict[str, Recipe] = {
  "bprmf": Recipe(
    BPRMFConfig(l2=3e-2),
    TrainConfig(optimizer="row_adam", learning_rate=2e-2, batch_size=512, num_epochs=50, negatives="present"),
    _AGGREGATE,
  ),
  "wmf": Recipe(
    WMFConfig(unobserved_weight=0.4, l2=0.3),
    TrainConfig(learning_rate=1e-2, batch_size=256, num_epochs=60),
    TrainConfig(num_epochs=20, batch_size=256, learning_rate=1e-2),
  ),
  "lightgcn": Recipe(
    LightGCNConfig(l2=1e-3),
    TrainConfig(learning_rate=2e-2, batch_size=2048, num_epochs=30, negatives="present"),
    _AGGREGATE,
  ),
  "neumf": Recipe(
    NeuMFConfig(),
    TrainConfig(
      optimizer="row_adagrad", learning_rate=0.05, batch_size=512, num_negatives=4, num_epochs=20, negatives="present"
    ),
    _AGGREGATE,
  ),
}

# Where a shard has its users whole, half the epochs do, and an attention that is combined with the shards' own scores
# needs few steps (BUILD_NOTES, "Shards"). Chosen in the same way.
_FEW_STEPS = TrainConfig(num_epochs=4, batch_size=32768, learning_rate=3e-2, average=0.5)
_USER_SHARDS: dict[str, Recipe] = {
  "bprmf": Recipe(
    BPRMFConfig(l2=2e-2),
    dataclasses.replace(_SHARDS["bprmf"].train_config, num_epochs=25),
    _FEW_STEPS,
  ),
  "wmf": Recipe(
    _SHARDS["wmf"].model_config,
    dataclasses.replace(_SHARDS["wmf"].train_config, num_epochs=30, learning_rate=2e-2),
    TrainConfig(num_epochs=1, batch_size=256, learning_rate=2e-2, average=0.5),
    mean_weight=2.0,
  ),
  "lightgcn": _SHARDS["lightgcn"]._replace(aggregate_train=_FEW_STEPS),
}


def recipe(model: str, name: str = "tuned") -> Recipe:
  """The recipe of that name for a model.

  Args:
    model: bprmf, wmf, lightgcn, neumf, popularity.
    name: "tuned"; "lightul" (bprmf and lightgcn), the recipe of LightUL's released code, except that the number of
      epochs is found on a validation part of train instead of the test pairs; "shards", for submodels over a tenth of
      the pairs, with fixed epochs, and their aggregator; or "user-shards", the same for shards of whole users.

  Raises:
    ValueError: no such model or recipe, or the recipe is not defined for the model.
  """
  check_choice("model", model, (*CONFIGS, "popularity"))
  check_choice("recipe", name, RECIPES)
  table = {"tuned": _TUNED, "lightul": _LIGHTUL, "shards": _SHARDS, "user-shards": _USER_SHARDS}[name]
  if model not in table:
    raise ValueError(f"Expected a model that recipe={name!r} is defined for ({', '.join(table)}), got model={model!r}.")
  return table[model]
