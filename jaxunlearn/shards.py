"""Training of submodels, one a shard: every shard by one compiled program (sparse data: one a table height), whichever
shards a request touches.

A shard trains from its own key with a sampler, a graph and (where there is one) a validation part made of its own pairs
alone, so its parameters are a function of (key, its pairs) and of nothing else. That is what makes unlearning by
partition exact.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from jaxunlearn import _own_rows
from jaxunlearn._validate import check_choice
from jaxunlearn.base import Context, Model, Params, scorer_of
from jaxunlearn.data.interactions import Interactions, capacity_for
from jaxunlearn.epoch import TrainConfig, TrainData, TrainState, copy_tree, init_state, prepare_alike, train_epoch
from jaxunlearn.graph import Graph, widen
from jaxunlearn.metrics.ranking import RankingEvaluator
from jaxunlearn.models import build

WAYS = ("auto", "map", "vmap")
AXIS = "shard"  # name of the mesh axis that shards are placed along


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
  """How several shards are trained.

  Both ways train each shard on its own draws. "map" runs one compiled program for one shard after another, which on a
  CPU costs what one epoch of the whole model does and gives the same bits whichever shards are trained together. "vmap"
  trains all at once, which fills a GPU; a width is at least two, and equal bits across widths are the backend's to
  keep (measured on CPU: they are).
  """

  way: str = "auto"  # "map", "vmap", or "auto": map on CPU, vmap elsewhere
  mesh: Mesh | None = None  # one-dimensional mesh with the axis "shard"; shards are spread over its devices

  def __post_init__(self) -> None:
    check_choice("way", self.way, WAYS)
    if self.mesh is not None and self.mesh.axis_names != (AXIS,):
      raise ValueError(
        f"Expected a mesh with the one axis {AXIS!r}, got {self.mesh.axis_names}; jax.make_mesh makes it."
      )

  @property
  def resolved(self) -> str:
    """ "map" or "vmap"."""
    if self.way != "auto":
      return self.way
    return "map" if jax.default_backend() == "cpu" else "vmap"


class ShardFit(NamedTuple):
  """Of each shard: the parameters that are served, the state that a later stage resumes from, and its epochs."""

  params: list[Params]
  states: list[TrainState]
  num_epochs: list[int]


def _train(
  key: jax.Array,
  state: TrainState,
  context: Context,
  data: TrainData,
  num_epochs: jax.Array,
  scalars: tuple[jax.Array, jax.Array, jax.Array],
  *,
  model: Model,
  optimizer: str,
  batch_size: int,
  num_negatives: int,
  avoid_positives: bool,
  batch_factor: float,
) -> tuple[TrainState, jax.Array]:
  """`num_epochs` epochs of one shard; the first of them with a loss that is not finite, or −1."""

  def epoch(index: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
    state, bad_epoch = carry
    state, _, bad_step = train_epoch(
      key,
      state,
      context,
      data,
      *scalars,
      model=model,
      optimizer=optimizer,
      batch_size=batch_size,
      num_negatives=num_negatives,
      avoid_positives=avoid_positives,
      batch_factor=batch_factor,
    )
    return state, jnp.where((bad_epoch < 0) & (bad_step >= 0), index, bad_epoch)

  return jax.lax.fori_loop(0, num_epochs, epoch, (state, jnp.int32(-1)))


_STATIC = ("model", "optimizer", "batch_size", "num_negatives", "avoid_positives", "batch_factor")
_train_one = functools.partial(jax.jit, static_argnames=_STATIC, donate_argnames=("state",))(_train)


@functools.partial(jax.jit, static_argnames=(*_STATIC, "way", "mesh"))
def _train_stacked(
  keys: jax.Array,
  states: TrainState,
  contexts: Context,
  data: TrainData,
  num_epochs: jax.Array,
  scalars: tuple[jax.Array, jax.Array, jax.Array],
  *,
  way: str,
  mesh: Mesh | None,
  **static: Any,
) -> tuple[TrainState, jax.Array]:
  """`_train` along a leading shard axis, which is split over the mesh where there is one."""

  def run(scalars: Any, *args: Any) -> Any:
    def one(args: Any) -> Any:
      key, state, context, part, count = args
      return _train(key, state, context, part, count, scalars, **static)

    if way == "map":
      return jax.lax.map(one, args)
    # Over leaves: vmap takes a BCOO apart only along a batch axis that it declares, and a device holds part of one.
    leaves, structure = jax.tree.flatten(args)
    return jax.vmap(lambda leaves: one(jax.tree.unflatten(structure, leaves)))(leaves)

  if mesh is not None:
    axis = PartitionSpec(AXIS)
    specs = (PartitionSpec(), *[axis] * 5)
    # Nothing is exchanged between shards, so there is nothing to check either; the loops' carries would fail it.
    run = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=axis, check_vma=False)
  return run(scalars, keys, states, contexts, data, num_epochs)


def _stack(trees: Sequence[Any]) -> Any:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _batched(model: Model) -> Model:
  """The model as vmap can take it: LightGCN's product has a batching rule as "bcoo" only."""
  if model.name == "lightgcn" and model.config.product not in ("bcoo", "segment_sum"):
    return build("lightgcn", dataclasses.replace(model.config, product="bcoo"))
  return model


def _run(
  placement: Placement,
  keys: Sequence[jax.Array],
  states: list[TrainState],
  contexts: list[Context],
  data: list[TrainData],
  num_epochs: list[int],
  config: TrainConfig,
  model: Model,
  numbers: Sequence[int],
) -> list[TrainState]:
  """Trains shard s for num_epochs[s] more epochs; 0 leaves it. The states are consumed."""
  scalars = tuple(jnp.float32(x) for x in (config.learning_rate, config.average, config.user_weight_power))
  static = {
    "optimizer": config.optimizer,
    "batch_size": config.batch_size,
    "num_negatives": config.num_negatives,
    "avoid_positives": config.avoid_positives,
    "batch_factor": config.batch_factor,
  }
  bad: Any
  way, mesh = placement.resolved, placement.mesh
  if mesh is not None:  # results are cut apart outside the program, which explicit sharding types do not allow
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,))
  if way == "map" and mesh is None:
    results = [
      _train_one(key, state, context, part, jnp.int32(count), scalars, model=model, **static) if count else (state, -1)
      for key, state, context, part, count in zip(keys, states, contexts, data, num_epochs, strict=True)
    ]
    new, bad = [state for state, _ in results], [int(flag) for _, flag in results]
  else:
    # Widths are powers of two of at least two, and multiples of the devices: few programs, and never vmap over one,
    # whose bits differ. What fills up trains for no epochs.
    devices = 1 if mesh is None else mesh.size
    width = -(-max(2, 1 << (len(states) - 1).bit_length()) // devices) * devices
    fill = [0] * (width - len(states))
    stacks = (
      jnp.stack([jax.random.clone(key) for key in (*keys, *(keys[i] for i in fill))]),
      _stack(states + [states[i] for i in fill]),
      _stack(contexts + [contexts[i] for i in fill]),
      _stack(data + [data[i] for i in fill]),
      jnp.asarray(num_epochs + fill, jnp.int32),
    )
    if mesh is not None:
      stacks = jax.device_put(stacks, NamedSharding(mesh, PartitionSpec(AXIS)))
      scalars = jax.device_put(scalars, NamedSharding(mesh, PartitionSpec()))
    stacked, flags = _train_stacked(
      *stacks,
      scalars,
      model=_batched(model) if way == "vmap" else model,
      way=way,
      mesh=mesh,
      **static,
    )
    if mesh is not None:
      stacked, flags = jax.device_put((stacked, flags), mesh.devices.flat[0])  # one shard at a time is served or kept
    new = [jax.tree.map(lambda leaf, s=s: leaf[s], stacked) for s in range(len(states))]
    bad = np.asarray(flags)[: len(states)].tolist()
  for shard, flag in enumerate(bad):
    if flag >= 0:
      raise ValueError(
        f"Training {model.name} diverged on shard {numbers[shard]}: the loss is not finite in epoch "
        f"{int(new[shard].epoch) - num_epochs[shard] + flag + 1} (learning_rate={config.learning_rate}). Lower "
        "learning_rate, or raise the L2 weight."
      )
  return new


def contexts_of(model: Model, parts: Sequence[Interactions], capacity: int) -> list[Context]:
  """What the forward pass of each shard reads from its pairs, all in one shape (`capacity` pairs)."""
  contexts = [model.context(part) for part in parts]
  return [widen(c, 2 * capacity) if isinstance(c, Graph) else c for c in contexts]


def train_shards(
  keys: Sequence[jax.Array],
  model: Model,
  parts: Sequence[Interactions],
  config: TrainConfig,
  *,
  start: Sequence[TrainState] | None = None,
  graphs: Sequence[Interactions] | None = None,
  validation: Sequence[Interactions] | None = None,
  capacity: int | None = None,
  graph_capacity: int | None = None,
  like: Sequence[Interactions] = (),
  known: Interactions | None = None,
  placement: Placement | None = None,
  progress: bool | None = None,
  label: str = "",
  numbers: Sequence[int] | None = None,
) -> ShardFit:
  """Trains a submodel a shard.

  Where negatives are a shard's own items and the optimizer passes over tables (LightGCN), shards of sparse data train
  on the rows that they have pairs in, one after another ("map"): the same draws, the same numbers up to rounding. Not
  with `start`, `graphs`, `validation` or `known`.

  Args:
    keys: one a shard; everything random in a shard is folded in from its own.
    model: of every shard.
    parts: the shards' pairs, over the axes of the whole data; a shard without pairs keeps its initialisation.
    config: how each is trained, for `config.num_epochs` epochs.
    start: states to go on from, copied; fresh ones when None.
    graphs: pairs that the context of each shard is made of, its own when None (LASER propagates over earlier groups).
    validation: held-out pairs of each shard, disjoint from `parts`. A shard then stops by its own patience, while
      the others go on, and returns its best epoch; a shard without held-out pairs trains to the end.
    capacity: pairs that arrays are padded to; enough for the largest shard when None. Passing the one of an earlier
      call keeps its compiled program.
    graph_capacity: the same for contexts, where they are made of more pairs than are trained on; `capacity` when None.
    like: all shards, where `parts` are some of them: the program is then the one that trained all.
    known: pairs that negatives avoid, a shard's own when None. Those of other shards end the isolation.
    placement: how shards are run.
    progress: as for `train.fit`.
    label: text before the progress bar.
    numbers: what messages call the shards; 0, 1, … when None.

  Raises:
    ValueError: a loss is not finite (shard and epoch are named).
  """
  placement = placement or Placement()
  if not parts:
    return ShardFit([], [], [])
  graphs = parts if graphs is None else graphs
  capacity = max(capacity_for(len(part)) for part in (*parts, *graphs)) if capacity is None else capacity
  if start is None:
    states = [init_state(key, model, part, config) for key, part in zip(keys, parts, strict=True)]
  else:
    states = [copy_tree(state) for state in start]
  # Not where several are trained at once: they would share a height, which then depends on other shards' pairs.
  alone = start is None and graphs is parts and known is None and validation is None
  one_by_one = placement.resolved == "map" and placement.mesh is None
  own: list[_own_rows.OwnRows | None]
  if alone and one_by_one and _own_rows.applies(model, config):
    own = [_own_rows.find(part) for part in parts]
  else:
    own = [None] * len(parts)
  whole = states
  if any(rows is not None for rows in own):
    states = [state if rows is None else _own_rows.take(state, rows) for state, rows in zip(whole, own, strict=True)]
    parts = [part if rows is None else _own_rows.narrow(part, rows) for part, rows in zip(parts, own, strict=True)]
    graphs = parts
  contexts, data = (
    contexts_of(model, graphs, capacity if graph_capacity is None else graph_capacity),
    prepare_alike(model, parts, config, capacity=capacity, like=like, known=known),
  )
  numbers = range(len(parts)) if numbers is None else numbers
  run = functools.partial(
    _run, placement, keys, contexts=contexts, data=data, config=config, model=model, numbers=numbers
  )  # fmt: skip
  trained = [model.batches != "none" and len(part) > 0 for part in parts]
  show = sys.stderr.isatty() if progress is None else progress
  bar = tqdm(
    total=config.num_epochs, desc=label or f"fit {len(parts)} shards of {model.name}", unit="epoch", disable=not show
  )
  with bar:
    if validation is None:
      # In pieces only to show progress: the epochs of a shard in one call keep its tables in the cache.
      piece = max(1, config.num_epochs // 20) if show else config.num_epochs
      for first in range(0, config.num_epochs, piece):
        count = min(piece, config.num_epochs - first)
        states = run(states=states, num_epochs=[count if t else 0 for t in trained])
        bar.update(count)
      done = [config.num_epochs if t else 0 for t in trained]
      states = [
        state if rows is None else _own_rows.put(before, rows, state)
        for before, rows, state in zip(whole, own, states, strict=True)
      ]
      return ShardFit([state.average for state in states], states, done)
    return _with_early_stopping(run, states, contexts, parts, validation, trained, config, model, bar)


def _with_early_stopping(
  run: Any,
  states: list[TrainState],
  contexts: list[Context],
  parts: Sequence[Interactions],
  validation: Sequence[Interactions],
  trained: list[bool],
  config: TrainConfig,
  model: Model,
  bar: Any,
) -> ShardFit:
  """Each shard until its own patience is over, by its own held-out pairs."""
  evaluators = [
    RankingEvaluator(held, mask=part, ks=(config.cutoff,), pad=True) if len(held) else None
    for held, part in zip(validation, parts, strict=True)
  ]
  num = len(states)
  best: list[Params] = [copy_tree(state.average) for state in states]
  value, epoch, stale = np.full(num, -np.inf), np.zeros(num, int), np.zeros(num, int)
  active, done = np.asarray(trained), 0
  while done < config.num_epochs and active.any():
    count = min(config.eval_every, config.num_epochs - done)
    states = run(states=states, num_epochs=[count if a else 0 for a in active])
    done += count
    bar.update(count)
    for shard in np.flatnonzero(active).tolist():
      evaluator, average = evaluators[shard], states[shard].average
      found = np.inf  # a shard without held-out pairs: its last epoch
      if evaluator is not None:
        found = evaluator(scorer_of(model, average, contexts[shard])).values[config.monitor]
      if evaluator is None or found > value[shard]:
        value[shard], epoch[shard], stale[shard] = found, done, 0
        best[shard] = copy_tree(average)
      else:
        stale[shard] += 1
    active = active & (stale < config.patience)
  return ShardFit(best, states, epoch.tolist())
