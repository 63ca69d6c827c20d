"""LightUL over a sharded base: every shard model is whitened by networks of its own, all in one vmapped program.

Three layers, as for `lightul`: `unlearn` (pure function), `sharded_lightul` (the `Unlearner`), the scripts.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxunlearn._validate import check_choice, check_finite
from jaxunlearn.aggregate import AggregateConfig, shard_vectors, weighted_scorer
from jaxunlearn.base import Embeddings, Model, Params, Scorer, Unlearner, UnlearnResult
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.models.frozen import vectors_model
from jaxunlearn.partition import Partition
from jaxunlearn.requests import Request, resolve, retained_of
from jaxunlearn.shards import contexts_of
from jaxunlearn.unlearn._sharded import PartitionFn, ShardConfig, ShardedState, sharded
from jaxunlearn.unlearn._sharded_whitening import blank, minimise, rows_of, stack
from jaxunlearn.unlearn.lightul import LightULConfig, _problem, forget_capacity_for

_VECTORS = vectors_model()


class ServedShards(struct.PyTreeNode):
  """What a request leaves behind: the vectors of every shard that are served, and the retained pairs.

  The submodels' parameters, their training states, the networks, the phantoms and the clusters are dropped.

  Attributes:
    vectors: float [K, num_users, d] and [K, num_items, d]: whitened rows of affected users and items, untouched rows of
      all others; zeros for a shard all of whose pairs are forgotten.
    weight: float [K], of each shard's score: 1 / K, or the learned static weights.
    interactions: the retained pairs.
    partition: the shard of each retained pair.
    capacity: pairs that a shard's arrays are padded to.
    num_phantoms: clusters of users a shard; kept, so that the next request has the same shapes.
    mask_absent: whether a shard is silent about rows that it has no pair of, as the base was served.
  """

  vectors: Embeddings
  weight: jax.Array
  interactions: Interactions
  partition: Partition
  capacity: int = struct.field(pytree_node=False)
  num_phantoms: int = struct.field(pytree_node=False)
  mask_absent: bool = struct.field(pytree_node=False, default=True)


def unlearn(
  key: jax.Array,
  model: Model,
  state: ShardedState | ServedShards,
  forget: Interactions,
  config: LightULConfig | None = None,
  *,
  way: str = "vmap",
  mask_absent: bool = True,
) -> UnlearnResult:
  """Forgets pairs by whitening, in each shard that holds one, the vectors of their users and items there.

  Shard s solves `lightul.unlearn`'s problem for its own model and its own pairs, from `fold_in(key, s)`: its forgotten
  and retained pairs, affected rows, clusters of the users that it holds, units of its vectors and scores. A pair lies
  in one shard, so no other one was trained on it. All K problems have one shape and are minimised in one program; a
  shard without forgotten pairs takes no step in it.

  Args:
    key: initialisation, negatives, clusters; shard s reads `fold_in(key, s)`.
    model: of every shard; its score is an inner product. Not read for `ServedShards`.
    state: a trained sharded base whose aggregator is the mean or static weights, or what a request left behind.
    forget: pairs of `state.interactions`.
    config: LightUL's, objective "preserve" or "paper"; `patience` stops each shard by a probe of its own.
    way: "vmap" minimises all shards at once, which costs K times the longest of them; "map" one after another, which
      costs the sum over touched shards: for requests of few pairs on a CPU.
    mask_absent: the base's `AggregateConfig.mask_absent`, by which it is served; not read for `ServedShards`.

  Returns:
    UnlearnResult: `ServedShards` (for a request of no pair the state as it was), and info: seconds, `shards_touched`
    (the shards that hold forgotten pairs), `shards_emptied`, and lists with a value a whitened shard:
    `shards_whitened` (its number), `loss`, `epochs`, `probe_auc` (a list each), `affected_users`, `affected_items`, and
    `clusters`, `singleton_clusters`, `alone_share` with phantoms.

  Raises:
    ValueError: the score is no inner product; the objective is "released"; the aggregator is attention; a vector or the
      result is not finite; a pair is not among the interactions, or none is left.

  Guarantee: approximate; no bound is known. All vectors of a shard without a forgotten pair, and in the others those of
  rows without one (over the retained graph), are returned bitwise unchanged. A shard all of whose pairs are forgotten
  is exact: its vectors become zeros. Not redone: the partition, and the K static weights, which were learned on all
  pairs. A shard's graph is repacked without the pairs.

  References:
    LightUL: An Efficient Recommendation Unlearning Framework, VLDB workshops 2025. Ours: the sharded base; and the
    number of phantoms is `phantom_ratio` times the median over shards of the users that a shard holds (the paper: of
    all users), since one shape serves all shards and a shard of a user partition holds 1 / K of them.
  """
  config = config or LightULConfig()
  check_choice("way", way, ("vmap", "map"))
  _check_model(model)
  _check_objective(config)
  start = time.perf_counter()
  encoder, params = (model, list(state.params)) if isinstance(state, ShardedState) else (_VECTORS, _tables(state))
  check_finite("params", params)
  weight = _weight_of(state)
  parts = state.partition.shards(state.interactions)
  num_shards, num_users = len(parts), state.interactions.num_users
  retained = retained_of(state.interactions, forget)  # before all else: raises when a pair is not there
  if not len(forget):
    return UnlearnResult(state, {"num_forgotten": 0, "seconds": 0.0})
  gone = forget.contains(state.interactions)
  lost = [state.interactions.select(gone & (state.partition.shard == s)) for s in range(num_shards)]
  partition = state.partition.select(~gone)
  kept = partition.shards(retained)
  num_phantoms = state.num_phantoms if isinstance(state, ServedShards) else _num_phantoms(parts, config.phantom_ratio)
  before = _encode(encoder, params, parts, state.capacity)
  touched = [s for s in range(num_shards) if len(lost[s])]
  whitened = [s for s in touched if len(kept[s])]
  emptied = [s for s in touched if not len(kept[s])]
  old = stack([jax.tree.map(jnp.zeros_like, v) if s in emptied else v for s, v in enumerate(before)])
  info: dict[str, Any] = {
    "num_forgotten": len(forget), "shards_touched": touched, "shards_whitened": whitened, "shards_emptied": emptied,
  }  # fmt: skip
  after = old
  if whitened:
    sized = dataclasses.replace(config, phantom_ratio=num_phantoms / num_users)
    forget_capacity = forget_capacity_for(max(map(len, lost)), state.capacity)
    base = dict(
      zip(
        whitened,
        _encode(encoder, [params[s] for s in whitened], [kept[s] for s in whitened], state.capacity),
        strict=True,
      )
    )
    keys = [jax.random.fold_in(key, s) for s in range(num_shards)]
    found = {
      s: _problem(
        keys[s], before[s], base[s], parts[s], kept[s], lost[s], sized, state.capacity, forget_capacity
      )
      for s in whitened
    }  # fmt: skip
    empty = blank(found[whitened[0]][0])
    problems = stack([found[s][0] if s in found else empty for s in range(num_shards)])
    after, details = minimise(jnp.stack(keys), problems, old, kept, lost, whitened, config, way)
    check_finite("the whitened vectors", after)
    for name in found[whitened[0]][1]:
      details[name] = [found[s][1][name] for s in whitened]
    info.update(details)
  served = ServedShards(
    vectors=after,
    weight=weight,
    interactions=retained,
    partition=partition,
    capacity=state.capacity,
    num_phantoms=num_phantoms,
    mask_absent=state.mask_absent if isinstance(state, ServedShards) else mask_absent,
  )
  jax.block_until_ready(after)
  info["seconds"] = time.perf_counter() - start
  return UnlearnResult(served, info)


def _check_model(model: Model) -> None:
  if not model.inner_product:
    raise ValueError(
      f"LightUL is defined for scores that are inner products; {model.name}'s is not. Use sisa or receraser instead."
    )


def _check_objective(config: LightULConfig) -> None:
  if config.objective == "released":
    raise ValueError(
      "Expected objective='preserve' or 'paper' over shards, got 'released': it trains the base tables too, which here "
      "are K submodels with contexts of their own. Use lightul, over a single model, for it."
    )


def _check_kind(kind: str) -> None:
  if kind not in ("mean", "static"):
    raise ValueError(
      f"Expected aggregate.kind='mean' or 'static', got {kind!r}: attention mixes the vectors of all shards, by "
      "maps that were trained on them before whitening. Train the base with AggregateConfig(kind='mean')."
    )


def _tables(state: ServedShards) -> list[Params]:
  """The served vectors of each shard as parameters of `vectors_model()`."""
  return [rows_of(state.vectors, s)._asdict() for s in range(state.partition.num_shards)]


def _weight_of(state: ShardedState | ServedShards) -> jax.Array:
  """float [K]: how the base weighs its shards' scores."""
  if isinstance(state, ServedShards):
    return state.weight
  if not state.aggregator:
    return jnp.full(state.partition.num_shards, 1.0 / state.partition.num_shards)
  _check_kind("static" if set(state.aggregator) == {"logits"} else "attention")
  return jax.nn.softmax(state.aggregator["logits"])


def _num_phantoms(parts: Sequence[Interactions], ratio: float) -> int:
  users = float(np.median([np.sum(part.user_degrees() > 0) for part in parts]))
  return max(1, round(ratio * users))


def _encode(model: Model, params: Sequence[Params], parts: Sequence[Interactions], capacity: int) -> list[Embeddings]:
  contexts = contexts_of(model, parts, capacity)
  return [model.encode(p, context) for p, context in zip(params, contexts, strict=True)]


def served_scorer(state: ServedShards) -> Scorer:
  """Serves Σ_s w_s ⟨user, item⟩ of the shards' vectors, as one inner product."""
  parts = state.partition.shards(state.interactions)
  how = AggregateConfig(kind="mean", mask_absent=state.mask_absent)
  vectors = shard_vectors(_VECTORS, _tables(state), [None] * len(parts), parts, state.interactions, how)
  return weighted_scorer(_VECTORS, vectors, state.weight)


def sharded_lightul(
  model: Model,
  shard_config: ShardConfig,
  partition: PartitionFn,
  config: LightULConfig | None = None,
  *,
  name: str = "lightul-shards",
  progress: bool | None = None,
) -> Unlearner:
  """LightUL over a sharded base as an `Unlearner`; guarantee and costs as in `unlearn`.

  `fit` trains the base; a later request starts from the served vectors of the one before (`ServedShards`). For LightGCN
  the graph edit of later requests then no longer acts on the vectors, only whitening does.

  Args:
    model: of every shard: bprmf, wmf, lightgcn.
    shard_config: of the base. `aggregate.kind` is "mean" or "static"; `placement.way` "map" whitens one shard after
      another, anything else all at once; its mesh is for training alone.
    partition: (key, interactions) -> Partition.
    config: LightUL's.
    name: for messages and results.
    progress: as for `train.fit`.

  Raises:
    ValueError: the score is no inner product, the objective is "released", or the aggregate is neither mean nor static.
  """
  config = config or LightULConfig()
  _check_model(model)
  _check_objective(config)
  _check_kind(shard_config.aggregate.kind)
  base = sharded(model, shard_config, partition, name=name, progress=progress)
  way = "map" if shard_config.placement.way == "map" else "vmap"

  def unlearn_fn(key: jax.Array, state: ShardedState | ServedShards, request: Request | Interactions) -> UnlearnResult:
    forget = resolve(request, state.interactions)
    if not len(forget):
      return UnlearnResult(state, {"num_forgotten": 0, "seconds": 0.0})
    return unlearn(key, model, state, forget, config, way=way, mask_absent=shard_config.aggregate.mask_absent)

  def scorer(state: ShardedState | ServedShards) -> Scorer:
    return served_scorer(state) if isinstance(state, ServedShards) else base.scorer(state)

  return Unlearner(base.fit, unlearn_fn, scorer, "approximate", name)
