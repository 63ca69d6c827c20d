"""One epoch of training as a pure, jitted function: batches are drawn on the device, parameters go in and come out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxunlearn import optimizers, sampling
from jaxunlearn._validate import check_choice, check_fraction, check_non_negative, check_positive, check_whole
from jaxunlearn.base import Batch, Context, Model, Params
from jaxunlearn.data.interactions import Interactions, PaddedInteractions, capacity_for


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """How a model is trained."""

  num_epochs: int = 200  # passes over the training pairs, an upper bound with early stopping, ≥ 1
  batch_size: int = 2048  # pairs a step (users a step for WMF), ≥ 1
  reference_batch_size: int | None = None  # batches that learning_rate is meant for: Adam is adjusted; None: these
  learning_rate: float = 1e-3  # step size, > 0
  optimizer: str = "adam"  # adam, adagrad, sgd (optax), or row_adam, row_adagrad, row_sgd (only touched rows)
  num_negatives: int = 1  # negatives drawn a pair, ≥ 1
  average: float = 0.9  # decay an epoch of the parameters' moving average, which is what is served; 0: the last ones
  user_weight_power: float = 0.5  # an example weighs (degree of its user)^−power; 0: all alike, 1: all users alike; ≥ 0
  avoid_positives: bool = True  # draw negatives from the user's absent items only
  negatives: str = "all"  # of all items, or of those "present" in the training pairs (a shard's own); not for WMF
  eval_every: int = 5  # epochs between two validations, ≥ 1
  patience: int = 4  # validations without improvement before stopping, ≥ 1
  monitor: str = "ndcg@20"  # metric that is maximised on the validation part
  validation_fraction: float = 0.1  # share of train that fit_with_selection holds out, in (0, 1)
  checkpoint_every: int = 10  # epochs between two checkpoints, ≥ 1

  def __post_init__(self) -> None:
    for name in ("num_epochs", "batch_size", "num_negatives", "eval_every", "patience", "checkpoint_every"):
      check_whole(name, getattr(self, name))
    check_positive("learning_rate", self.learning_rate)
    check_non_negative("user_weight_power", self.user_weight_power)
    check_choice("optimizer", self.optimizer, optimizers.NAMES)
    check_choice("negatives", self.negatives, ("all", "present"))
    if self.reference_batch_size is not None:
      check_whole("reference_batch_size", self.reference_batch_size)
      if self.optimizer != "adam":
        raise ValueError(
          f"Expected optimizer='adam' with reference_batch_size={self.reference_batch_size}, got {self.optimizer!r}: "
          "how another one scales with the batch is not defined here. Leave reference_batch_size out."
        )
    check_fraction("validation_fraction", self.validation_fraction)
    check_fraction("average", self.average, closed=True)
    name, _, cutoff = self.monitor.partition("@")
    check_choice("monitor", name, ("ndcg", "recall", "hr"))
    if not cutoff.isdigit() or int(cutoff) < 1:
      raise ValueError(f"Expected monitor={self.monitor!r} as metric@k, for example 'ndcg@20'.")

  @property
  def batch_factor(self) -> float:
    """How many times as large as `reference_batch_size` a batch is; 1 where none is given."""
    return self.batch_size / (self.reference_batch_size or self.batch_size)

  @property
  def cutoff(self) -> int:
    """The k of `monitor`."""
    return int(self.monitor.partition("@")[2])


class TrainState(struct.PyTreeNode):
  """What the next epoch needs: parameters, their moving average, optimizer state, epochs done (int32 scalar).

  The average over epochs takes out the noise of a constant step size, as a decaying one would, without fixing the
  number of epochs in advance: on ml-1m-receraser it lifts BPRMF's Recall@20 from 0.222 to 0.231 (BUILD_NOTES).
  """

  params: Params
  average: Params
  opt_state: Any
  epoch: jax.Array


class TrainData(struct.PyTreeNode):
  """The training pairs on the device, and the strata that user batches are drawn from (None for pairwise)."""

  pairs: PaddedInteractions
  strata: sampling.Strata | None
  num_pairs: int = struct.field(pytree_node=False)  # static bound of pairs in a user batch
  pool: sampling.Pool | None = None  # the items that negatives are drawn from; all when None
  known: PaddedInteractions | None = None  # the pairs that negatives avoid; those trained on when None


def check_avoids(model: Model, config: TrainConfig) -> None:
  """Raises ValueError where training draws no negatives that avoid pairs, so that naming those pairs means nothing."""
  if model.batches != "pairwise" or not config.avoid_positives:
    raise ValueError(
      f"Expected a model that draws negatives which avoid pairs, got {model.name} with avoid_positives="
      f"{config.avoid_positives}: leave shared_positives and known out."
    )


def prepare(
  model: Model,
  interactions: Interactions,
  config: TrainConfig,
  *,
  capacity: int | None = None,
  known: Interactions | None = None,
) -> TrainData:
  """Puts the pairs on the device in the form that the model's batches need, padded to `capacity` pairs.

  Args:
    model: to be trained.
    interactions: the pairs.
    config: how.
    capacity: pairs that arrays are padded to; enough for these when None.
    known: pairs that negatives avoid, over the same axes and not only those trained on; these when None.

  Raises:
    ValueError: `known` for a model or a configuration that avoids no pairs; capacity is too small.
  """
  if known is not None:
    check_avoids(model, config)
  pairs = interactions.padded(capacity)
  if model.batches == "users":
    return TrainData(pairs, *sampling.user_strata(interactions, config.batch_size))
  if config.negatives == "all":
    return TrainData(pairs, None, 0, None, None if known is None else known.padded())
  pool = sampling.present_items(interactions)
  if known is None:
    return TrainData(pairs, None, 0, pool)
  inside = known.select(interactions.item_degrees()[known.item] > 0)
  return TrainData(pairs, None, 0, pool, inside.padded(capacity_for(len(known))))


def prepare_alike(
  model: Model,
  parts: Sequence[Interactions],
  config: TrainConfig,
  *,
  capacity: int | None = None,
  like: Sequence[Interactions] = (),
  known: Interactions | None = None,
) -> list[TrainData]:
  """`prepare` for several data sets over the same axes (shards), in the same shapes, so that one program trains all.

  Args:
    model: of each.
    parts: the data sets.
    config: how they are trained.
    capacity: pairs that arrays are padded to; enough for the largest part when None.
    like: further data sets that the shapes have to hold (all shards, where only some are trained).
    known: as for `prepare`.

  Raises:
    ValueError: capacity is smaller than the largest part.
  """
  capacity = max(capacity_for(len(part)) for part in parts) if capacity is None else capacity
  data = [prepare(model, part, config, capacity=capacity, known=known) for part in parts]
  shapes = [(part.strata.users.shape[1], part.num_pairs) for part in data if part.strata is not None]
  if model.batches == "users":
    for other in like:
      strata, num_pairs = sampling.user_strata(other, config.batch_size)
      shapes.append((strata.users.shape[1], num_pairs))
  columns, bound = (max((shape[axis] for shape in shapes), default=0) for axis in (0, 1))

  def widen(part: TrainData) -> TrainData:
    if part.strata is None:
      return part
    pad = ((0, 0), (0, columns - part.strata.users.shape[1]))
    strata = part.strata._replace(users=jnp.pad(part.strata.users, pad, constant_values=-1))
    return part.replace(strata=strata, num_pairs=bound)

  return [widen(part) for part in data]


def init_state(key: jax.Array, model: Model, interactions: Interactions, config: TrainConfig) -> TrainState:
  """Fresh parameters and optimizer state; they depend on the key and the two sizes, not on the pairs."""
  params = model.init(jax.random.fold_in(key, 0), interactions.num_users, interactions.num_items)
  return state_from(model, params, config)


def copy_tree(tree: Any) -> Any:
  """New buffers of the same values, safe from donation."""
  return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


def state_from(model: Model, params: Params, config: TrainConfig) -> TrainState:
  """Fresh optimizer state around given parameters, which the first epoch donates."""
  opt_state = _init_opt_state(model, params, config.optimizer)
  return TrainState(params, copy_tree(params), opt_state, jnp.zeros((), jnp.int32))


def _split_tables(params: Params) -> tuple[dict[str, jax.Array], dict[str, Any]]:
  tables = {name: params[name] for name in ("user", "item")}
  return tables, {name: leaf for name, leaf in params.items() if name not in tables}


def _init_opt_state(model: Model, params: Params, optimizer: str) -> Any:
  if optimizer in optimizers.DENSE:
    return optimizers.DENSE[optimizer]().init(params)
  if model.row_loss is None:
    raise ValueError(
      f"Expected a dense optimizer for {model.name}, got optimizer={optimizer!r}: every step moves all its rows. "
      f"Use one of {', '.join(optimizers.DENSE)}."
    )
  tables, rest = _split_tables(params)
  row, dense = optimizers.ROW[optimizer](), optimizers.DENSE[optimizer.removeprefix("row_")]()
  return {name: row.init(table) for name, table in tables.items()}, dense.init(rest)


def _dense_step(
  model: Model,
  rule: optax.GradientTransformation,
  params: Params,
  opt_state: Any,
  context: Context,
  batch: Batch,
  learning_rate: jax.Array,
) -> tuple[Params, Any, jax.Array]:
  loss, grads = jax.value_and_grad(model.loss)(params, context, batch)
  direction, opt_state = rule.update(grads, opt_state, params)
  return optax.apply_updates(params, jax.tree.map(lambda g: -learning_rate * g, direction)), opt_state, loss


def _row_step(
  model: Model, optimizer: str, params: Params, opt_state: Any, context: Context, batch: Batch, learning_rate: jax.Array
) -> tuple[Params, Any, jax.Array]:
  """Differentiates with respect to the gathered rows only, so that no gradient is as large as a table."""
  del context  # a loss over rows reads nothing else
  assert model.row_loss is not None
  tables, rest = _split_tables(params)
  num_negatives = batch.negative.shape[1]
  users, items = tables["user"], tables["item"]
  # Positions of a batch are in range; without the promise JAX masks every gathered row once more.
  loss, (rest_grads, user_grads, positive_grads, negative_grads) = jax.value_and_grad(
    model.row_loss, argnums=(0, 1, 2, 3)
  )(
    rest,
    users.at[batch.user].get(mode="promise_in_bounds"),
    items.at[batch.positive].get(mode="promise_in_bounds"),
    items.at[batch.negative].get(mode="promise_in_bounds"),
    batch.weight,
  )
  rows = {"user": batch.user, "item": jnp.concatenate([batch.positive, batch.negative.reshape(-1)])}
  item_grads = jnp.concatenate([positive_grads, negative_grads.reshape(-1, items.shape[1])])
  row_grads = {"user": user_grads, "item": item_grads}
  row, dense = optimizers.ROW[optimizer](), optimizers.DENSE[optimizer.removeprefix("row_")]()
  row_state, rest_state = opt_state
  # A padded example has no gradient, but its row would age under lazy Adam: send it out of range.
  seen = batch.weight > 0
  real = {"user": seen, "item": jnp.concatenate([seen, jnp.repeat(seen, num_negatives)])}
  new_tables, new_row_state = {}, {}
  for name, table in tables.items():
    kept = jnp.where(real[name], rows[name], table.shape[0])
    new_tables[name], new_row_state[name] = row.update(table, row_state[name], kept, row_grads[name], learning_rate)
  direction, rest_state = dense.update(rest_grads, rest_state, rest)
  rest = optax.apply_updates(rest, jax.tree.map(lambda g: -learning_rate * g, direction))
  return {**new_tables, **rest}, (new_row_state, rest_state), loss


@functools.partial(
  jax.jit,
  static_argnames=("model", "optimizer", "batch_size", "num_negatives", "avoid_positives", "batch_factor"),
  donate_argnames=("state",),
)
def train_epoch(
  key: jax.Array,
  state: TrainState,
  context: Context,
  data: TrainData,
  learning_rate: jax.Array,
  average: jax.Array,
  user_weight_power: jax.Array,
  *,
  model: Model,
  optimizer: str,
  batch_size: int,
  num_negatives: int = 1,
  avoid_positives: bool = True,
  batch_factor: float = 1.0,
) -> tuple[TrainState, jax.Array, jax.Array]:
  """One pass over the training pairs.

  Args:
    key: of the whole fit; the epoch's own is folded in from `state.epoch`, so a resumed run repeats the draws.
    state: donated; do not use it afterwards.
    context: of the training pairs.
    data: from `prepare`.
    learning_rate: scalar, dynamic (a sweep over it compiles once).
    average: scalar, decay of the moving average; epoch t weighs 1/t at least, so early epochs fade.
    user_weight_power: scalar, see `TrainConfig`; user batches (WMF) do not read it.
    model: static.
    optimizer: static, a name of `optimizers.NAMES`.
    batch_size: static.
    num_negatives: static.
    avoid_positives: static.
    batch_factor: static, `TrainConfig.batch_factor`; for Adam only.

  Returns:
    The state after the epoch; the mean loss of its steps; the first step with a loss that is not finite, or −1.
  """
  epoch_key = jax.random.fold_in(jax.random.fold_in(key, 1), state.epoch)
  order_key, step_key = jax.random.split(epoch_key)
  if model.batches == "users":
    assert data.strata is not None
    shuffled = sampling.shuffle_strata(order_key, data.strata)
    num_steps = data.strata.num_batches
  else:
    order = sampling.epoch_order(order_key, data.pairs.count, data.pairs.capacity)
    num_steps = (data.pairs.count + batch_size - 1) // batch_size
    degree = jnp.maximum(jnp.diff(data.pairs.indptr), 1).astype(jnp.float32)
    user_weight = degree**-user_weight_power
    negatives = sampling.epoch_negatives(
      step_key, data.pairs, order, batch_size=batch_size, num_negatives=num_negatives,
      avoid_positives=avoid_positives, pool=data.pool, known=data.known,
    )  # fmt: skip
  step_fn: Callable[..., tuple[Params, Any, jax.Array]]
  if optimizer in optimizers.DENSE:
    step_fn = functools.partial(_dense_step, model, optimizers.dense(optimizer, batch_factor))
    learning_rate = learning_rate * batch_factor**0.5
  else:
    step_fn = functools.partial(_row_step, model, optimizer)

  def step(index: jax.Array, carry: tuple[Params, Any, jax.Array, jax.Array]) -> Any:
    params, opt_state, total, bad_step = carry
    if model.batches == "users":
      batch = sampling.users_batch(data.pairs, shuffled[:, index], data.num_pairs)
    else:
      batch = sampling.pairwise_batch(
        step_key, data.pairs, order, index, batch_size=batch_size, num_negatives=num_negatives,
        avoid_positives=avoid_positives, pool=data.pool, known=data.known, negative=negatives[index],
      )  # fmt: skip
      batch = batch._replace(weight=batch.weight * user_weight[batch.user])
    params, opt_state, loss = step_fn(params, opt_state, context, batch, learning_rate)
    bad_step = jnp.where((bad_step < 0) & ~jnp.isfinite(loss), index, bad_step)
    return params, opt_state, total + loss, bad_step

  carry = (state.params, state.opt_state, jnp.zeros(()), jnp.asarray(-1, jnp.int32))
  params, opt_state, total, bad_step = jax.lax.fori_loop(0, num_steps, step, carry)
  share = jnp.where(average > 0, jnp.maximum(1.0 - average, 1.0 / (state.epoch + 1.0)), 1.0)
  averaged = jax.tree.map(lambda old, new: old + share * (new - old), state.average, params)
  return TrainState(params, averaged, opt_state, state.epoch + 1), total / jnp.maximum(num_steps, 1), bad_step
