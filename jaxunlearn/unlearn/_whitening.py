"""LightUL's whitening networks and losses: the jitted core behind `lightul`."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from jaxunlearn.base import Context, Embeddings, Model, Params
from jaxunlearn.data.interactions import PaddedInteractions
from jaxunlearn.losses import half_square, weighted_mean
from jaxunlearn.sampling import epoch_order, sample_negatives


def _within_fan_in(fan_in: int) -> Any:
  """Uniform within ± 1/√fan_in, as PyTorch's `Linear` starts, weights and biases: the published objectives' code."""

  def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

  return init


class Whitening(nn.Module):
  """Ω: [..., d] -> [..., d]; where `residual`, Ω − identity, whose last layer starts at zero."""

  hidden: int
  residual: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Applies Ω to vectors, whatever their leading axes."""
    if self.residual:
      y = nn.relu(nn.Dense(self.hidden, name="in")(x))
      return nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros, name="out")(y)
    first, last = _within_fan_in(x.shape[-1]), _within_fan_in(self.hidden)
    y = nn.relu(nn.Dense(self.hidden, kernel_init=first, bias_init=first, name="in")(x))
    return nn.Dense(x.shape[-1], kernel_init=last, bias_init=last, name="out")(y)


class Problem(struct.PyTreeNode):
  """Arrays that one request is solved from; all shapes are capacities, so a second request of another size fits.

  Attributes:
    before: vectors of the model before the request, over the graph with the forgotten pairs: s⁰.
    base: the same parameters encoded over the retained graph: what is whitened.
    forget: forgotten pairs.
    retained: retained pairs.
    known: retained and forgotten pairs; negatives are drawn outside them.
    user_affected: bool [num_users], has a forgotten pair.
    item_affected: bool [num_items], likewise.
    phantom_of: int32 [num_users], cluster of each user.
    phantom_pairs: pairs (phantom, item) of the forgotten pairs moved to the phantoms, merged.
    units: root mean square of an entry of the user and of the item vectors, float scalars; Ω of "preserve" works in
      them, so that vectors of another scale are whitened alike. Ones for the published objectives.
    score_unit: standard deviation of the retained pairs' scores, likewise.
    params: the base parameters; only the released objective moves them.
    context: of the retained pairs.
  """

  before: Embeddings
  base: Embeddings
  forget: PaddedInteractions
  retained: PaddedInteractions
  known: PaddedInteractions
  user_affected: jax.Array
  item_affected: jax.Array
  phantom_of: jax.Array
  phantom_pairs: PaddedInteractions
  units: Embeddings
  score_unit: jax.Array
  params: Params
  context: Context


class Weights(NamedTuple):
  """Scalars of the losses; arguments, so a sweep over them compiles once."""

  alpha: jax.Array
  phantom: jax.Array
  decay: jax.Array
  preserve: jax.Array
  learning_rate: jax.Array


class Static(NamedTuple):
  """What a program is compiled for."""

  objective: str
  phantoms: bool
  squash: bool
  reduction: str
  hidden: int
  residual: bool
  batch_size: int
  num_preserve: int
  model: Model


def init_variables(key: jax.Array, problem: Problem, static: Static) -> dict[str, Any]:
  """Trainable variables: {"omega": both MLPs} and, with phantoms, their table and the affected items' deltas."""
  user_key, item_key, phantom_key = jax.random.split(key, 3)
  dim = problem.base.user.shape[1]
  net, one = Whitening(static.hidden, static.residual), jnp.zeros((1, dim))
  variables: dict[str, Any] = {
    "omega": {"user": net.init(user_key, one)["params"], "item": net.init(item_key, one)["params"]}
  }
  if static.objective == "released":
    variables["params"] = problem.params
  if static.phantoms:
    variables["phantom"] = 0.1 * jax.random.normal(phantom_key, (problem.phantom_pairs.num_users, dim))
    if static.objective == "paper":
      # "Related" items update although the base is frozen: the only reading under which both sentences hold.
      variables["delta"] = jnp.zeros_like(problem.base.item)
  return variables


def _whitened(static: Static, variables: dict[str, Any], problem: Problem, base: Embeddings) -> Any:
  """Functions rows -> served vectors, for users and for items."""
  net = Whitening(static.hidden, static.residual)

  def apply(side: str, x: jax.Array, unit: jax.Array) -> jax.Array:
    y = unit * cast(jax.Array, net.apply({"params": variables["omega"][side]}, x / unit))
    return x + y if static.residual else y  # added in the vectors' own unit: x / unit · unit is not x to the last bit

  def of_user(rows: jax.Array) -> jax.Array:
    x = base.user[rows]
    return jnp.where(problem.user_affected[rows][..., None], apply("user", x, problem.units.user), x)

  def of_item(rows: jax.Array) -> jax.Array:
    x = base.item[rows]
    affected = problem.item_affected[rows][..., None]
    y = apply("item", x, problem.units.item)
    if "delta" in variables:
      y = y + variables["delta"][rows]
    return jnp.where(affected, y, x)

  return of_user, of_item


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.sum(a * b, axis=-1)


def _reduce(static: Static, values: jax.Array, weight: jax.Array) -> jax.Array:
  if static.reduction == "sum":
    return jnp.sum(jnp.where(weight > 0, values, 0.0) * weight)
  return weighted_mean(values, weight)


def _retained_item(key: jax.Array, data: PaddedInteractions, users: jax.Array) -> tuple[jax.Array, jax.Array]:
  """A uniform retained item of each user, and whether the user has any."""
  degree = data.indptr[users + 1] - data.indptr[users]
  at = data.indptr[users] + jax.random.randint(key, users.shape, 0, jnp.maximum(degree, 1), jnp.int32)
  return data.item[jnp.minimum(at, data.capacity - 1)], degree > 0


def _loss(
  variables: dict[str, Any],
  key: jax.Array,
  rows: jax.Array,
  valid: jax.Array,
  problem: Problem,
  weights: Weights,
  static: Static,
) -> jax.Array:
  """The objective on one batch of forgotten pairs."""
  negative_key, retained_key, phantom_key, preserve_key = jax.random.split(key, 4)
  user, item = problem.forget.user[rows], problem.forget.item[rows]
  weight = valid.astype(jnp.float32)
  agg = (lambda a, b: jax.nn.sigmoid(_dot(a, b))) if static.squash else _dot
  released = static.objective == "released"
  base = static.model.encode(variables["params"], problem.context) if released else problem.base
  of_user, of_item = _whitened(static, variables, problem, base)
  # The released code compares with the score before Ω of the moment, and its gradient reaches the tables there, too.
  old = base if released else problem.before
  before = agg(old.user[user], old.item[item])
  user_vector = of_user(user)
  after = agg(user_vector, of_item(item))

  if released:
    kept, has_kept = _retained_item(retained_key, problem.retained, user)
    anywhere = jax.random.randint(negative_key, user.shape, 0, problem.retained.num_items, jnp.int32)
    kept_score, random_score = agg(user_vector, of_item(kept)), agg(user_vector, of_item(anywhere))
    with_kept = weight * has_kept
    lowered = weighted_mean(jax.nn.softplus(after - before), weight)
    lowered += weighted_mean(jax.nn.softplus(after - kept_score), with_kept)
    total = lowered + weights.alpha * weighted_mean(jax.nn.softplus(random_score - kept_score), with_kept)
  else:
    unseen = sample_negatives(negative_key, problem.known, user, 1)[:, 0]
    gap = jnp.square(after - agg(user_vector, of_item(unseen)))
    # −ln σ(s⁰ − s'): the more the score has sunk below the old one, the weaker the pull.
    lowered = jax.nn.softplus((after - before) / problem.score_unit)
    if static.objective == "paper":
      total = weights.alpha * _reduce(static, lowered, weight)
      total += (1.0 - weights.alpha) * weighted_mean(gap, weight)
    else:
      total = weights.alpha * weighted_mean(lowered, weight)
      total += weights.preserve * _preserve(preserve_key, problem, of_user, of_item, static)
    decayed = {name: leaf for name, leaf in variables.items() if name in ("omega", "phantom", "delta")}
    total += weights.decay * sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(decayed))

  if static.phantoms:
    total += weights.phantom * _phantom_loss(
      phantom_key, variables, rows, weight, problem, weights, static, base, of_item
    )
  return total


def _preserve(key: jax.Array, problem: Problem, of_user: Any, of_item: Any, static: Static) -> jax.Array:
  """Mean squared change of served scores: on retained pairs that touch the whitened nodes, and on random pairs."""
  pair_key, user_key, item_key = jax.random.split(key, 3)
  size = static.num_preserve
  row = jax.random.randint(pair_key, (size,), 0, jnp.maximum(problem.retained.count, 1), jnp.int32)
  user = jnp.concatenate(
    [problem.retained.user[row], jax.random.randint(user_key, (size,), 0, problem.retained.num_users)]
  )
  item = jnp.concatenate(
    [problem.retained.item[row], jax.random.randint(item_key, (size,), 0, problem.retained.num_items)]
  )
  change = _dot(of_user(user), of_item(item)) - _dot(problem.base.user[user], problem.base.item[item])
  return jnp.mean(jnp.square(change / problem.score_unit))


def _phantom_loss(
  key: jax.Array,
  variables: dict[str, Any],
  rows: jax.Array,
  weight: jax.Array,
  problem: Problem,
  weights: Weights,
  static: Static,
  base: Embeddings,
  of_item: Any,
) -> jax.Array:
  user, item = problem.forget.user[rows], problem.forget.item[rows]
  if static.objective == "released":
    # The released code indexes *real* users and un-whitened rows here: it learns the forgotten pairs again.
    anywhere = jax.random.randint(key, user.shape, 0, problem.retained.num_items, jnp.int32)
    agg = (lambda a, b: jax.nn.sigmoid(_dot(a, b))) if static.squash else _dot
    margin = agg(base.user[user], base.item[item]) - agg(base.user[user], base.item[anywhere])
    table = variables["params"]
    ridge = half_square(table["user"][user]) + half_square(table["item"][item]) + half_square(table["item"][anywhere])
    return weighted_mean(jax.nn.softplus(-margin), weight) + weights.decay * weighted_mean(ridge, weight)
  phantom = problem.phantom_of[user]
  unlinked = sample_negatives(key, problem.phantom_pairs, phantom, 1)[:, 0]
  vector = variables["phantom"][phantom]
  margin = _dot(vector, of_item(item)) - _dot(vector, of_item(unlinked))
  return weighted_mean(jax.nn.softplus(-margin), weight)


@functools.partial(jax.jit, static_argnames=("static",), donate_argnames=("carry",))
def run_epochs(
  key: jax.Array,
  carry: tuple[Any, Any],
  problem: Problem,
  weights: Weights,
  first: jax.Array,
  last: jax.Array,
  *,
  static: Static,
) -> tuple[tuple[Any, Any], jax.Array]:
  """Epochs `first` … `last` − 1 over the forgotten pairs, in one program.

  Args:
    key: of the whole request; epoch and step are folded in.
    carry: (variables, optimizer state), donated.
    problem: arrays of the request.
    weights: scalars.
    first: int32 scalar.
    last: int32 scalar.
    static: what to compile for.

  Returns:
    The carry, and the mean loss of the last epoch.
  """
  optimizer = optax.scale_by_adam()
  count = problem.forget.count
  num_steps = (count + static.batch_size - 1) // static.batch_size

  def epoch(index: jax.Array, state: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
    carry, _ = state
    order_key, step_key = jax.random.split(jax.random.fold_in(key, index))
    order = epoch_order(order_key, count, problem.forget.capacity)

    def step(at: jax.Array, state: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
      (variables, moments), total = state
      slot = at * static.batch_size + jnp.arange(static.batch_size, dtype=jnp.int32)
      rows = order[jnp.minimum(slot, problem.forget.capacity - 1)]
      loss, grads = jax.value_and_grad(_loss)(
        variables, jax.random.fold_in(step_key, at), rows, slot < count, problem, weights, static
      )
      updates, moments = optimizer.update(grads, moments, variables)
      variables = jax.tree.map(lambda leaf, update: leaf - weights.learning_rate * update, variables, updates)
      return (variables, moments), total + loss

    carry, total = jax.lax.fori_loop(0, num_steps, step, (carry, jnp.zeros(())))
    return carry, total / jnp.maximum(num_steps, 1)

  return jax.lax.fori_loop(first, last, epoch, (carry, jnp.zeros(())))


def init_moments(variables: dict[str, Any]) -> Any:
  """Adam's state for `run_epochs`."""
  return optax.scale_by_adam().init(variables)


@functools.partial(jax.jit, static_argnames=("static",))
@jax.default_matmul_precision("highest")
def served(variables: dict[str, Any], problem: Problem, *, static: Static) -> tuple[Embeddings, Embeddings]:
  """Vectors after whitening, which are served, and before it, which only the released code ranks with."""
  base = problem.base
  if static.objective == "released":
    base = static.model.encode(variables["params"], problem.context)
  of_user, of_item = _whitened(static, variables, problem, base)
  rows = [jnp.arange(table.shape[0], dtype=jnp.int32) for table in base]
  return Embeddings(of_user(rows[0]), of_item(rows[1])), base
