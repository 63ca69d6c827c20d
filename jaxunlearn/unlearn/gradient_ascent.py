"""Gradient ascent: climb the training loss of the forgotten pairs for a few steps. A baseline that guarantees nothing.

Three layers: `unlearn` (pure function), `gradient_ascent` (the `Unlearner`), `experiments/unlearn.py` (the script).
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn._validate import check_finite, check_integers, check_positive, check_tables, check_trained
from jaxunlearn.base import Batch, Context, Model, Params, Unlearner, UnlearnResult
from jaxunlearn.data.interactions import Interactions, PaddedInteractions, capacity_for
from jaxunlearn.requests import retained_of
from jaxunlearn.sampling import sample_negatives, users_batch
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn.retrain import ModelState, post_hoc

_FORGET_SHARE = 16  # requests of up to 1/16 of the pairs' capacity share one shape, so one compilation


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientAscentConfig:
  """How far to climb."""

  num_steps: int = 10  # steps over all forgotten pairs at once, ≥ 1
  learning_rate: float = 0.05  # step size on the *sum* of their losses, so that a pair counts alike in any request, > 0
  clip: float = 1.0  # the gradient of a row (of a whole leaf, beside the tables) is scaled down to this norm, > 0
  num_negatives: int = 1  # negatives drawn a forgotten pair and step, ≥ 1; WMF has none

  def __post_init__(self) -> None:
    check_integers(self)
    for name in ("num_steps", "learning_rate", "clip", "num_negatives"):
      check_positive(name, getattr(self, name))


class Static(NamedTuple):
  """What a program is compiled for."""

  model: Model
  num_negatives: int


def _loss(
  params: Params,
  key: jax.Array,
  context: Context,
  forget: PaddedInteractions,
  known: PaddedInteractions,
  static: Static,
) -> jax.Array:
  """The sum over the forgotten pairs of the model's training loss."""
  model = static.model
  real = (jnp.arange(forget.capacity) < forget.count).astype(jnp.float32)
  if model.batches == "users":
    # Difference of two losses: what the pairs add to that of their users' unobserved entries, which is not climbed.
    has_pairs = jnp.diff(forget.indptr) > 0
    users = jnp.where(has_pairs, jnp.arange(forget.num_users, dtype=jnp.int32), -1)
    batch = users_batch(forget, users, forget.capacity)
    assert batch.pair_weight is not None
    without = batch._replace(pair_weight=jnp.zeros_like(batch.pair_weight))
    share = model.loss(params, context, batch) - model.loss(params, context, without)
    return share * jnp.sum(has_pairs)
  negative = sample_negatives(key, known, forget.user, static.num_negatives)
  real *= jnp.diff(known.indptr)[forget.user] < known.num_items  # of a user with every item there is no negative
  return model.loss(params, context, Batch(forget.user, forget.item, negative, real)) * jnp.sum(real)


def _clipped(grads: Params, clip: jax.Array) -> Params:
  def row(grad: jax.Array) -> jax.Array:
    norm = jnp.linalg.norm(grad, axis=-1, keepdims=True)
    return grad * jnp.minimum(1.0, clip / jnp.maximum(norm, 1e-30))

  def leaf(grad: jax.Array) -> jax.Array:
    return grad * jnp.minimum(1.0, clip / jnp.maximum(jnp.linalg.norm(grad.reshape(-1)), 1e-30))

  return {name: row(grads[name]) if name in ("user", "item") else jax.tree.map(leaf, grads[name]) for name in grads}


@functools.partial(jax.jit, static_argnames=("static",))
def ascend(
  key: jax.Array,
  params: Params,
  context: Context,
  forget: PaddedInteractions,
  known: PaddedInteractions,
  num_steps: jax.Array,
  learning_rate: jax.Array,
  clip: jax.Array,
  *,
  static: Static,
) -> tuple[Params, jax.Array]:
  """All steps in one program.

  Args:
    key: the step is folded in.
    params: where to start.
    context: that the loss reads.
    forget: pairs whose loss is climbed.
    known: pairs that no negative is drawn from, the forgotten ones included.
    num_steps: int32 scalar.
    learning_rate: scalar.
    clip: scalar.
    static: what to compile for.

  Returns:
    The parameters, and the losses of the first and of the last step (the sum over the pairs), [2].
  """

  def step(index: jax.Array, carry: tuple[Params, jax.Array]) -> tuple[Params, jax.Array]:
    params, seen = carry
    loss, grads = jax.value_and_grad(_loss)(params, jax.random.fold_in(key, index), context, forget, known, static)
    params = jax.tree.map(lambda x, g: x + learning_rate * g, params, _clipped(grads, clip))
    return params, jnp.stack([jnp.where(index == 0, loss, seen[0]), loss])

  return jax.lax.fori_loop(0, num_steps, step, (params, jnp.zeros(2)))


def unlearn(
  key: jax.Array,
  model: Model,
  params: Params,
  interactions: Interactions,
  forget: Interactions,
  config: GradientAscentConfig | None = None,
) -> UnlearnResult:
  """Moves `params` up the training loss of the forgotten pairs.

  Args:
    key: of the negatives, drawn anew each step outside all pairs that the user ever had.
    model: any that is trained.
    params: its trained parameters.
    interactions: what it was trained on, the forgotten pairs included.
    forget: pairs of `interactions`.
    config: how far.

  Returns:
    UnlearnResult: a `ModelState`, and info: loss_first and loss_last (mean over the forgotten pairs, before the first
    and before the last step), seconds.

  Raises:
    ValueError: the model is not trained; a parameter or the result is not finite; a pair was not trained on, or
      none is left; all pairs are of users with every item, for whom a loss over negatives has none to compare with.

  Guarantee: none. The loss has no maximum, so the end is where the budget is; too many steps push the forgotten
  pairs below pairs that never were, which betrays them as well as leaving them does, and nothing holds the retained
  pairs of the same users and items. Drawn negatives move too, upwards. Rows of no forgotten pair and no draw are
  returned bitwise unchanged without a graph; LightGCN's loss is taken, and served, over the graph of the retained
  pairs, and moves their neighbours as well.

  Cost: `num_steps` gradients over the forgotten pairs, and with a graph one over it each.
  """
  config = config or GradientAscentConfig()
  check_trained("gradient_ascent", model)
  check_tables(params, interactions)
  check_finite("params", params)
  start = time.perf_counter()
  retained = retained_of(interactions, forget)
  if not len(forget):
    return UnlearnResult(ModelState(params, interactions), {"num_forgotten": 0, "seconds": 0.0})
  if model.batches == "pairwise" and (interactions.user_degrees()[forget.user] == interactions.num_items).all():
    raise ValueError(
      f"Expected a forgotten pair whose loss can be climbed, got {len(forget)} of users with every item, who have no "
      f"negative that {model.name}'s loss compares with; use retrain."
    )
  capacity = capacity_for(len(interactions))
  new, losses = ascend(
    key,
    params,
    model.context(retained),
    forget.padded(max(capacity_for(len(forget)), capacity // _FORGET_SHARE)),
    interactions.padded(capacity),
    jnp.int32(config.num_steps),
    jnp.float32(config.learning_rate),
    jnp.float32(config.clip),
    static=Static(model, config.num_negatives),
  )
  check_finite("the parameters after gradient ascent", new, "lower learning_rate or num_steps")
  first, last = (float(loss) / len(forget) for loss in losses)
  info = {"num_forgotten": len(forget), "loss_first": first, "loss_last": last, "seconds": time.perf_counter() - start}
  return UnlearnResult(ModelState(new, retained), info)


def gradient_ascent(
  model: Model,
  train_config: TrainConfig | None = None,
  config: GradientAscentConfig | None = None,
  *,
  progress: bool | None = None,
) -> Unlearner:
  """Gradient ascent as an `Unlearner`; guarantee (none) and costs as in `unlearn`.

  Args:
    model: any model that is trained.
    train_config: for `fit`.
    config: of a request; None: the defaults, for NeuMF with as many negatives as `train_config` has.
    progress: as for `train.fit`.
  """
  training = train_config or TrainConfig()
  if config is None and model.name == "neumf":  # its loss weighs a positive against so many; BPR's is a mean over them
    config = GradientAscentConfig(num_negatives=training.num_negatives)

  def forget_pairs(key: jax.Array, state: ModelState, forget: Interactions) -> UnlearnResult:
    return unlearn(key, model, state.params, state.interactions, forget, config)

  return post_hoc("gradient_ascent", model, training, forget_pairs, progress=progress)
