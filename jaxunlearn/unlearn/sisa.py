"""SISA: sharded, isolated, sliced, aggregated. Random shards of pairs or of whole users, mean of scores."""

from __future__ import annotations

import dataclasses

from jaxunlearn._validate import check_choice, check_integers
from jaxunlearn.aggregate import AggregateConfig
from jaxunlearn.base import Model, Unlearner
from jaxunlearn.epoch import TrainConfig
from jaxunlearn.partition.hashed import UNITS
from jaxunlearn.shards import Placement
from jaxunlearn.unlearn._partitions import HASHED, partitioner
from jaxunlearn.unlearn._sharded import ShardConfig, sharded


@dataclasses.dataclass(frozen=True, kw_only=True)
class SISAConfig:
  """Hyper-parameters of SISA."""

  num_shards: int = 10  # K, ≥ 1
  unit: str = "interaction"  # what is dealt to shards: each pair, or a "user" or an "item" with all of its pairs
  num_slices: int = 1  # R, stages a shard is trained in, ≥ 1; RecEraser's paper uses 1
  early_stopping: bool = False  # each shard stops by held-out pairs of its own
  shared_positives: bool = False  # as RecEraser's released sampler: negatives avoid other shards' pairs; not exact

  def __post_init__(self) -> None:
    check_integers(self)
    check_choice("unit", self.unit, UNITS)

  def shard_config(self, train: TrainConfig, placement: Placement) -> ShardConfig:
    """In the terms of `_sharded`."""
    return ShardConfig(
      train=train,
      aggregate=AggregateConfig(kind="mean"),
      num_slices=self.num_slices,
      early_stopping=self.early_stopping,
      shared_positives=self.shared_positives,
      placement=placement,
    )


def sisa(
  model: Model,
  train_config: TrainConfig | None = None,
  config: SISAConfig | None = None,
  *,
  placement: Placement | None = None,
  progress: bool | None = None,
) -> Unlearner:
  """SISA as an `Unlearner`.

  Guarantee: exact, without a condition. A pair's shard and slice are keyed hashes of its ids, so nothing about the
  others tells where it was: `unlearn(key, fit(key, D), F)` is bitwise `fit(key, D ∖ F)` (CPU; elsewhere with
  deterministic scatters). The number of epochs is a hyper-parameter. `shared_positives=True`, which is how RecEraser's
  released code samples, gives the guarantee up for utility: negatives then avoid the pairs of other shards, later
  forgotten ones included, and a request leaves untouched shards as they are.

  After a request: submodels of touched shards, their stages and the aggregator are trained anew from their own
  initialisation; samplers, graphs and optimizer states are built from the retained pairs; a forgotten user's or item's
  rows are initialisation (moved by draws as a negative, for items); other shards are the same buffers. The partition
  keeps the shards of the retained pairs and drops the forgotten ones'.

  With R slices a shard trains in R stages of ⌈2e / (R + 1)⌋ epochs on the pairs of slices 1 … r, each going on from the
  last (optimizer state included), and a request resumes from before the first stage that saw a forgotten pair: at most
  1.5 times as fast again, for R − 1 more training states a shard.

  Cost: the touched shards, of K(1 − (1 − 1/K)ʳ) expected for r random pairs. With `unit="user"`, ours, all pairs of a
  user are in one shard, by a hash of the user alone: whoever leaves costs one shard instead of nearly all of them, and
  more utility is left, since no user is trained in pieces. As exact as `unit="interaction"`, the paper's.

  Args:
    model: of every shard, any of bprmf, wmf, lightgcn, neumf.
    train_config: of every shard.
    config: SISA's.
    placement: how several shards are trained at once.
    progress: as for `train.fit`.

  References:
    Bourtoule et al., Machine Unlearning, IEEE S&P 2021.
  """
  config = config or SISAConfig()
  how = config.shard_config(train_config or TrainConfig(), placement or Placement())
  name = next(name for name, unit in HASHED.items() if unit == config.unit)
  return sharded(model, how, partitioner(name, config.num_shards), name="sisa", progress=progress)
