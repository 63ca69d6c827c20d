"""What SISA, GraphEraser and RecEraser share: shards, slices, an aggregator, requests that retrain what they touch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import struct

from jaxunlearn import partition as partitions
from jaxunlearn._validate import check_own_vectors, check_trained, check_whole
from jaxunlearn.aggregate import AggregateConfig, aggregated_scorer, check_aggregates, fit_aggregator, shard_vectors
from jaxunlearn.base import Model, Params, Scorer, Unlearner, UnlearnResult
from jaxunlearn.data.interactions import Interactions, capacity_for
from jaxunlearn.epoch import TrainConfig, TrainState, check_avoids
from jaxunlearn.partition import Partition
from jaxunlearn.partition._types import check_aligned
from jaxunlearn.requests import Request, resolve
from jaxunlearn.shards import Placement, contexts_of, train_shards

PartitionFn = Callable[[jax.Array, Interactions], Partition]
# What the key of a fit is folded with: one stream each, so that none of them depends on another's size.
_SHARD, _PARTITION, _SLICE, _AGGREGATOR, _HOLDOUT = range(5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardConfig:
  """How submodels are trained and put together."""

  train: TrainConfig = TrainConfig()  # of every submodel
  aggregate: AggregateConfig = AggregateConfig()
  num_slices: int = (
    1  # R: a shard trains in R stages on growing data and a request resumes from the last clean one, ≥ 1
  )
  early_stopping: bool = False  # each shard holds pairs of its own out and stops by its own patience; needs one slice
  shared_positives: bool = False  # negatives avoid the pairs of all shards: no shard is isolated, no request exact
  placement: Placement = Placement()

  def __post_init__(self) -> None:
    check_whole("num_slices", self.num_slices)
    if self.early_stopping and self.num_slices > 1:
      raise ValueError(f"Expected num_slices=1 with early_stopping, got {self.num_slices}; stages have fixed epochs.")


class ShardedState(struct.PyTreeNode):
  """Submodels and what the next request needs.

  Attributes:
    params: K parameter trees, a submodel each; a request leaves those of untouched shards the same buffers.
    stages: K tuples of R − 1 training states, the ends of all stages but the last.
    aggregator: parameters of the aggregator; {} for the mean.
    interactions: the retained pairs; nothing that was forgotten.
    partition: the shard of each retained pair.
    slices: int32 [N], the slice of each retained pair.
    capacity: pairs that a shard's arrays are padded to: a power of two of the fit, kept so that a request compiles
      nothing. All of forgotten pairs that it tells is the size class of what the largest shard once held.
  """

  params: tuple[Params, ...]
  stages: tuple[tuple[TrainState, ...], ...]
  aggregator: Params
  interactions: Interactions
  partition: Partition
  slices: np.ndarray
  capacity: int = struct.field(pytree_node=False)

  @property
  def derived(self) -> list[str]:
    """Arrays that were computed from pairs which may have been forgotten since."""
    return [] if self.partition.derived_from == "ids" else [f"partition.shard ({self.partition.name})"]


def stage_epochs(num_epochs: int, num_slices: int) -> int:
  """Epochs of each of R stages that together cost `num_epochs` over the whole shard: 2e / (R + 1), rounded."""
  return max(1, round(2 * num_epochs / (num_slices + 1)))


def _train(
  key: jax.Array,
  model: Model,
  interactions: Interactions,
  partition: Partition,
  slices: np.ndarray,
  config: ShardConfig,
  first_slice: np.ndarray,
  old: ShardedState | None,
  capacity: int,
  progress: bool | None,
) -> tuple[tuple[Params, ...], tuple[tuple[TrainState, ...], ...]]:
  """Trains shard s from stage first_slice[s] on; where that is R the shard is taken from `old` as it is."""
  num_shards, num_slices = partition.num_shards, config.num_slices
  params: list[Params] = [None] * num_shards if old is None else list(old.params)
  stages = [[] if old is None else list(old.stages[s]) for s in range(num_shards)]
  for stage in range(num_slices):
    which = np.flatnonzero(first_slice <= stage).tolist()
    if not which:
      continue
    inside = slices <= stage
    parts = [interactions.select((partition.shard == s) & inside) for s in which]
    validation = None
    train = config.train
    if config.early_stopping:
      parts, validation = hold_out(key, parts, train.validation_fraction)
    elif num_slices > 1:
      train = dataclasses.replace(train, num_epochs=stage_epochs(train.num_epochs, num_slices))
    fitted = train_shards(
      [jax.random.fold_in(jax.random.fold_in(key, _SHARD), s) for s in which],
      model,
      parts,
      train,
      start=[stages[s][stage - 1] for s in which] if stage else None,
      validation=validation,
      capacity=capacity,
      like=[interactions.select((partition.shard == s) & inside) for s in range(num_shards)],
      known=interactions if config.shared_positives else None,
      placement=config.placement,
      progress=progress,
      numbers=which,
    )
    for at, s in enumerate(which):
      if stage < num_slices - 1:
        stages[s] = [*stages[s][:stage], fitted.states[at]]
      else:
        params[s] = fitted.params[at]
  return tuple(params), tuple(tuple(s) for s in stages)


def hold_out(
  key: jax.Array, parts: Sequence[Interactions], fraction: float
) -> tuple[list[Interactions], list[Interactions]]:
  """Splits each shard by a hash of the pair. Of a user or item that would be left without one, no pair is held out.

  What is held out depends on the shard's own pairs alone. A row that is never trained would be served as it was drawn.
  """
  buckets = 1000
  held = []
  for part in parts:  # the same hash for all, of a key of its own each time
    out = partitions.random(jax.random.fold_in(key, _HOLDOUT), part, buckets).shard < max(1, round(buckets * fraction))
    rest = part.select(~out)
    held.append(out & (rest.user_degrees()[part.user] > 0) & (rest.item_degrees()[part.item] > 0))
  split = list(zip(parts, held, strict=True))
  return [part.select(~out) for part, out in split], [part.select(out) for part, out in split]


def _vectors(model: Model, config: ShardConfig, state: ShardedState) -> Any:
  parts = state.partition.shards(state.interactions)
  contexts = contexts_of(model, parts, state.capacity)
  return shard_vectors(model, state.params, contexts, parts, state.interactions, config.aggregate)


def aggregate(
  key: jax.Array, model: Model, config: ShardConfig, state: ShardedState, progress: bool | None
) -> ShardedState:
  """The state with its aggregator trained anew on its submodels and retained pairs."""
  if config.aggregate.kind == "mean":
    return state.replace(aggregator={})
  aggregator = fit_aggregator(
    jax.random.fold_in(key, _AGGREGATOR), model, _vectors(model, config, state), state.interactions, config.aggregate,
    progress=progress,
  )  # fmt: skip
  return state.replace(aggregator=aggregator)


def fit_sharded(
  key: jax.Array,
  model: Model,
  interactions: Interactions,
  partition: Partition,
  config: ShardConfig,
  *,
  slices: np.ndarray | None = None,
  capacity: int | None = None,
  progress: bool | None = None,
) -> ShardedState:
  """Trains every submodel and the aggregator for a given partition.

  Args:
    key: of everything random.
    model: of every shard.
    interactions: all pairs.
    partition: their shards.
    config: how.
    slices: int [N], the slice of each pair; by a keyed hash of the pair when None.
    capacity: pairs that a shard's arrays are padded to, enough for the largest shard when None.
    progress: as for `train.fit`.
  """
  if slices is None:
    slices = partitions.random(jax.random.fold_in(key, _SLICE), interactions, config.num_slices).shard
  capacity = capacity_for(int(partition.sizes().max())) if capacity is None else capacity
  first = np.zeros(partition.num_shards, np.int32)
  params, stages = _train(
    key, model, interactions, partition, slices, config, first, None, capacity, progress
  )  # fmt: skip
  state = ShardedState(params, stages, {}, interactions, partition, slices, capacity)
  return aggregate(key, model, config, state, progress)


def unlearn_sharded(
  key: jax.Array,
  model: Model,
  state: ShardedState,
  forget: Interactions,
  config: ShardConfig,
  *,
  progress: bool | None = None,
) -> UnlearnResult:
  """Retrains the shards that hold a forgotten pair, from the stage that first saw one, and then the aggregator.

  Args:
    key: that of the fit, for a result that is bitwise that of fitting on the retained pairs. Any other gives retrained
      shards another initialisation: as exact in distribution, but not comparable bit by bit.
    model: of every shard.
    state: before the request; it stays valid.
    forget: pairs of `state.interactions`.
    config: that of the fit.
    progress: as for `train.fit`.
  """
  start = time.perf_counter()
  num_slices = config.num_slices
  gone = forget.contains(state.interactions)
  first = np.full(state.partition.num_shards, num_slices, np.int32)
  np.minimum.at(first, state.partition.shard[gone], np.asarray(state.slices)[gone])
  partition, slices = state.partition.select(~gone), np.asarray(state.slices)[~gone]
  interactions = state.interactions.without(forget)
  params, stages = _train(
    key, model, interactions, partition, slices, config, first, state, state.capacity, progress
  )  # fmt: skip
  jax.block_until_ready(params)
  trained = time.perf_counter()
  new = ShardedState(params, stages, {}, interactions, partition, slices, state.capacity)
  new = aggregate(key, model, config, new, progress)
  jax.block_until_ready(new.aggregator)
  end = time.perf_counter()
  info = {
    "num_forgotten": len(forget),
    "seconds": end - start,
    "shard_seconds": trained - start,
    "aggregate_seconds": end - trained,
    "num_shards_retrained": int((first < num_slices).sum()),
    "stages_retrained": int((num_slices - first).sum()),
    "partition_derived_from": partition.derived_from,
  }
  return UnlearnResult(new, info)


def sharded_scorer(model: Model, config: ShardConfig, state: ShardedState) -> Scorer:
  """Serves a state: every submodel encoded over its shard, put together."""
  return aggregated_scorer(model, _vectors(model, config, state), state.aggregator, config.aggregate)


def _kind_of(aggregator: Params) -> str:
  if not aggregator:
    return "mean"
  return "static" if "logits" in aggregator else "attention"


def check_state(name: str, state: Any, config: ShardConfig) -> None:
  """Raises ValueError for a state that a method of this configuration did not fit: it would be misread, silently."""
  if not isinstance(state, ShardedState):
    raise ValueError(f"Expected a ShardedState, which {name} fits, got {type(state).__name__}: another method's.")
  kind = "attention" if config.aggregate.kind == "combined" else config.aggregate.kind
  wanted, found = (config.num_slices, kind), (len(state.stages[0]) + 1, _kind_of(state.aggregator))
  if wanted != found:
    raise ValueError(
      f"Expected a state of num_slices={wanted[0]} and an aggregator of kind {wanted[1]!r}, as {name} is configured "
      f"here, got one of num_slices={found[0]} and {found[1]!r}; use the configuration of the fit."
    )


def sharded(
  model: Model,
  config: ShardConfig,
  partition: PartitionFn,
  *,
  name: str,
  progress: bool | None = None,
) -> Unlearner:
  """An `Unlearner` of a way to partition and a `ShardConfig`; `sisa`, `grapheraser` and `receraser` name theirs.

  Raises:
    ValueError: the model is `frozen`: its vectors came from elsewhere, and nothing here trains them anew. Or submodels
      of its kind cannot be put together so. Or the model is not trained. Of a request, and of serving: the state was
      fitted by another method, or with another number of slices or aggregator.
  """
  check_own_vectors(name, model)
  check_trained(name, model)
  check_aggregates(model, config.aggregate)

  def fit_fn(key: jax.Array, interactions: Interactions) -> ShardedState:
    made = partition(jax.random.fold_in(key, _PARTITION), interactions)
    check_aligned(made, interactions)
    return fit_sharded(key, model, interactions, made, config, progress=progress)

  def unlearn_fn(key: jax.Array, state: ShardedState, request: Request | Interactions) -> UnlearnResult:
    check_state(name, state, config)
    forget = resolve(request, state.interactions)
    if not len(forget):
      return UnlearnResult(state, {"num_forgotten": 0, "seconds": 0.0, "num_shards_retrained": 0})
    return unlearn_sharded(key, model, state, forget, config, progress=progress)

  def refit_fn(key: jax.Array, state: ShardedState) -> ShardedState:
    check_state(name, state, config)
    return fit_sharded(
      key, model, state.interactions, state.partition, config,
      slices=np.asarray(state.slices), capacity=state.capacity, progress=progress,
    )  # fmt: skip

  def scorer(state: ShardedState) -> Scorer:
    check_state(name, state, config)
    return sharded_scorer(model, config, state)

  if config.shared_positives:
    check_avoids(model, config.train)
    return Unlearner(fit_fn, unlearn_fn, scorer, "approximate", name)
  return Unlearner(fit_fn, unlearn_fn, scorer, "exact", name, refit_fn)
