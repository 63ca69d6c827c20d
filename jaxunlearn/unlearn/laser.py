"""LASER: groups of similar users, trained in sequence from easy to hard; a request resumes before its first group."""

from __future__ import annotations

import dataclasses
import time

import jax
from flax import struct

from jaxunlearn import partition as partitions
from jaxunlearn._validate import check_choice, check_own_vectors, check_whole
from jaxunlearn.base import Model, Params, Scorer, Unlearner, UnlearnResult, scorer_of
from jaxunlearn.data.interactions import Interactions, capacity_for
from jaxunlearn.epoch import TrainConfig, state_from
from jaxunlearn.partition import Partition
from jaxunlearn.partition._types import check_aligned
from jaxunlearn.requests import Request, resolve
from jaxunlearn.shards import Placement, train_shards
from jaxunlearn.unlearn._sharded import PartitionFn, hold_out

GRAPHS = ("seen", "own")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LASERConfig:
  """Hyper-parameters of LASER."""

  num_groups: int = 5  # K, ≥ 1
  early_stopping: bool = False  # each group stops by held-out pairs of its own and goes on from its best epoch
  graph: str = "seen"  # LightGCN: a group propagates over the pairs of the groups so far, or over its "own" alone

  def __post_init__(self) -> None:
    check_whole("num_groups", self.num_groups)
    check_choice("graph", self.graph, GRAPHS)


class LASERState(struct.PyTreeNode):
  """The chain of models and what the next request needs.

  Attributes:
    checkpoints: K parameter trees, the model after each group; the last is served.
    interactions: the retained pairs; nothing that was forgotten.
    partition: the group of each retained pair, in the order of training.
    capacity: pairs that graphs are padded to, enough for all.
    group_capacity: pairs that a group's arrays are padded to.
  """

  checkpoints: tuple[Params, ...]
  interactions: Interactions
  partition: Partition
  capacity: int = struct.field(pytree_node=False)
  group_capacity: int = struct.field(pytree_node=False)

  @property
  def derived(self) -> list[str]:
    """Arrays that were computed from pairs which may have been forgotten since."""
    return [] if self.partition.derived_from == "ids" else [f"partition.shard ({self.partition.name})"]


def _chain(
  key: jax.Array,
  model: Model,
  train: TrainConfig,
  config: LASERConfig,
  interactions: Interactions,
  partition: Partition,
  first: int,
  clean: tuple[Params, ...],
  capacities: tuple[int, int],
  progress: bool | None,
) -> LASERState:
  """Trains groups `first` … K − 1, from the last of the `clean` checkpoints (a fresh initialisation without any)."""
  checkpoints = list(clean)
  if not checkpoints:
    params = model.init(jax.random.fold_in(key, 0), interactions.num_users, interactions.num_items)
  else:
    params = checkpoints[-1]
  for group in range(first, partition.num_shards):
    part = interactions.select(partition.shard == group)
    if len(part):
      validation = None
      group_key = jax.random.fold_in(jax.random.fold_in(key, 1), group)
      if config.early_stopping:
        (part,), validation = hold_out(key, [part], train.validation_fraction)
      # The graph of the groups so far: one of all would let later groups into this checkpoint.
      graph = part if config.graph == "own" else interactions.select(partition.shard < group).union(part)
      fitted = train_shards(
        [group_key], model, [part], train,
        start=[state_from(model, params, train)],
        graphs=[graph], validation=validation, graph_capacity=capacities[0], capacity=capacities[1],
        placement=Placement(way="map"), progress=progress, label=f"group {group + 1} of {partition.num_shards}",
        numbers=[group],
      )  # fmt: skip
      params = fitted.params[0]
    checkpoints.append(params)
  return LASERState(tuple(checkpoints), interactions, partition, *capacities)


def laser(
  model: Model,
  train_config: TrainConfig | None = None,
  config: LASERConfig | None = None,
  *,
  groups: PartitionFn | None = None,
  progress: bool | None = None,
) -> Unlearner:
  """LASER as an `Unlearner`.

  Users are grouped by spectral vectors of their hypergraph, K groups of equal size, ordered by the mean distance of
  their members. One model trains on one group after another with a fresh optimizer, and a copy is kept after each. A
  request restores the copy from before the first group that holds a forgotten pair and trains from there.

  Guarantee: exact given its groups. `unlearn(key, fit(key, D), F)` is bitwise what training on D ∖ F with the same key
  and groups gives. The groups were made from D, F included, and are not made anew.

  After a request all later checkpoints are new; graphs and samplers are built from retained pairs; rows of a forgotten
  user are initialisation. A group without a pair left passes its model on.

  Limits: a model forgets earlier groups while it trains on later ones (item rows move, the users' do not), which costs
  more utility the more groups there are; and pairs spread over all users touch the first group, so the request costs
  a whole fit (facts §4.5).

  Args:
    model: any of bprmf, wmf, lightgcn, neumf; LightGCN propagates over the groups so far, and is served over all.
      With `graph="own"`, as LightUL's port has it, each group over its own pairs, and the last group's graph is served,
      from which all other users are cut off (BUILD_NOTES, "LightUL").
    train_config: of each group; `num_epochs` are a group's.
    config: LASER's.
    groups: (key, interactions) -> Partition in training order; `partition.laser` when None.
    progress: as for `train.fit`.

  Raises:
    ValueError: the model is `frozen`: its vectors came from elsewhere, and nothing here trains them anew;
      `graph="own"` for a model without a graph.

  References:
    LASER ("Making Recommender Systems Forget"), as far as its abstract, LightUL's account of it and its authors'
    shared code tell (facts §4); our reading.
  """
  check_own_vectors("laser", model)
  config, train = config or LASERConfig(), train_config or TrainConfig()
  if config.graph == "own" and model.name != "lightgcn":
    raise ValueError(f'Expected graph="seen" for {model.name}, which has no graph to propagate over.')

  def fit_fn(key: jax.Array, interactions: Interactions) -> LASERState:
    group_key = jax.random.fold_in(key, 2)
    made = groups(group_key, interactions) if groups else partitions.laser(group_key, interactions, config.num_groups)
    check_aligned(made, interactions)
    capacities = capacity_for(len(interactions)), capacity_for(int(made.sizes().max()))
    return _chain(key, model, train, config, interactions, made, 0, (), capacities, progress)

  def unlearn_fn(key: jax.Array, state: LASERState, request: Request | Interactions) -> UnlearnResult:
    if not isinstance(state, LASERState):
      raise ValueError(f"Expected a LASERState, which laser fits, got {type(state).__name__}: another method's.")
    forget = resolve(request, state.interactions)
    if not len(forget):
      return UnlearnResult(state, {"num_forgotten": 0, "seconds": 0.0, "num_groups_retrained": 0})
    start = time.perf_counter()
    gone = forget.contains(state.interactions)
    first = int(state.partition.shard[gone].min())
    kept = state.partition.select(~gone)
    new = _chain(
      key, model, train, config, state.interactions.without(forget), kept, first, state.checkpoints[:first],
      (state.capacity, state.group_capacity), progress,
    )  # fmt: skip
    jax.block_until_ready(new.checkpoints)
    info = {
      "num_forgotten": len(forget),
      "seconds": time.perf_counter() - start,
      "num_groups_retrained": kept.num_shards - first,
      "first_group": first,
      "groups_derived_from": kept.derived_from,
    }
    return UnlearnResult(new, info)

  def refit_fn(key: jax.Array, state: LASERState) -> LASERState:
    return _chain(
      key, model, train, config, state.interactions, state.partition, 0, (), (state.capacity, state.group_capacity),
      progress,
    )  # fmt: skip

  def scorer(state: LASERState) -> Scorer:
    served = state.interactions
    if config.graph == "own" and len(served):
      served = served.select(state.partition.shard == state.partition.shard.max())  # one without pairs trains nothing
    return scorer_of(model, state.checkpoints[-1], model.context(served))

  return Unlearner(fit_fn, unlearn_fn, scorer, "exact", "laser", refit_fn)
