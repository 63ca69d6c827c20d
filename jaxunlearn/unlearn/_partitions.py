"""Partitions by name, those from pre-trained vectors with their pre-training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax

from jaxunlearn import partition
from jaxunlearn._validate import check_choice, check_whole
from jaxunlearn.aggregate import AggregateConfig
from jaxunlearn.base import Embeddings, Model, Unlearner
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.partition import Partition
from jaxunlearn.recipes import Recipe, recipe
from jaxunlearn.shards import Placement
from jaxunlearn.train import TrainConfig, fit
from jaxunlearn.unlearn._sharded import ShardConfig, sharded

VectorsFn = Callable[[jax.Array, Interactions], Embeddings]
# By hashes of ids: nothing about the pairs decides, so that unlearning is exact without a condition.
HASHED = {"random": "interaction", "random-users": "user", "random-items": "item"}
NAMES = (*HASHED, "ubp", "ubp-pairs", "ibp", "inbp", "inbp-released", "blpa", "bekm")


def pretrained(key: jax.Array, interactions: Interactions, how: Recipe | None = None) -> Embeddings:
  """Vectors to partition by: WMF trained on all given pairs (70 epochs of the tuned recipe when None), as in RecEraser.

  They, and the partition made from them, are derived from every pair, later forgotten ones included.
  """
  if how is None:
    tuned = recipe("wmf")
    how = Recipe(tuned.model_config, dataclasses.replace(tuned.train_config, num_epochs=70))
  model = how.model("wmf")
  params = fit(key, model, interactions, how.train_config, progress=False).params
  return model.encode(params, None)


def partitioner(
  name: str, num_shards: int, *, vectors: VectorsFn | None = None
) -> Callable[[jax.Array, Interactions], Partition]:
  """(key, interactions) -> Partition of that name.

  Args:
    name: random, ubp, ibp, inbp, blpa, bekm; "random-users" and "random-items" keep all pairs of one together,
      "ubp-pairs" caps a shard's pairs instead of its users, "inbp-released" has the anchors of RecEraser's released
      code, one number for all coordinates.
    num_shards: K.
    vectors: (key, interactions) -> Embeddings to partition by; `pretrained` when None. Vectors that never saw a pair
      that may be forgotten (side features, public data) make the partition as good as data-independent.

  Raises:
    ValueError: no such partition, or num_shards < 1.
  """
  check_choice("partition", name, NAMES)
  check_whole("num_shards", num_shards)
  source = vectors or pretrained

  def make(key: jax.Array, interactions: Interactions) -> Partition:
    vector_key, key = jax.random.split(key)
    if name in HASHED:
      return partition.random(key, interactions, num_shards, unit=HASHED[name])
    if name == "blpa":
      return partition.blpa(key, interactions, num_shards)
    found = source(vector_key, interactions)
    if name in ("ubp", "ubp-pairs"):
      unit = "user" if name == "ubp" else "interaction"
      return partition.ubp(key, interactions, found.user, num_shards, unit=unit)
    if name == "ibp":
      return partition.ibp(key, interactions, found.item, num_shards)
    if name == "bekm":
      return partition.bekm(key, interactions, found.user, found.item, num_shards)
    released = name == "inbp-released"
    return partition.inbp(key, interactions, found.user, found.item, num_shards, scalar_anchor=released)

  return make


class PartitionedConfig(Protocol):
  """What GraphEraser's and RecEraser's configurations have in common."""

  @property
  def num_shards(self) -> int:
    """K."""

  @property
  def partition(self) -> str:
    """One of `NAMES`."""

  @property
  def aggregate(self) -> AggregateConfig:
    """How submodels become one."""

  @property
  def early_stopping(self) -> bool:
    """Whether each shard stops by held-out pairs of its own."""

  @property
  def shared_positives(self) -> bool:
    """Whether negatives avoid the pairs of all shards."""


def partitioned(
  name: str,
  model: Model,
  train: TrainConfig,
  config: PartitionedConfig,
  *,
  vectors: VectorsFn | None,
  placement: Placement | None,
  progress: bool | None,
) -> Unlearner:
  """The `Unlearner` of a configured partition and aggregation; `grapheraser` and `receraser` say what it promises."""
  how = ShardConfig(
    train=train,
    aggregate=config.aggregate,
    early_stopping=config.early_stopping,
    shared_positives=config.shared_positives,
    placement=placement or Placement(),
  )
  made = partitioner(config.partition, config.num_shards, vectors=vectors)
  return sharded(model, how, made, name=name, progress=progress)
