"""Training losses, written for arrays of scores and vectors; a model's `loss` gathers and calls these.

Every mean is over the examples whose `weight` is not zero, so that padding moves neither value nor gradient.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def weighted_mean(values: jax.Array, weight: jax.Array) -> jax.Array:
  """Σ weight·values / Σ weight over all axes; 0 when all weights are 0. Shapes must be equal."""
  total = jnp.sum(weight)
  return jnp.sum(jnp.where(weight > 0, values, 0.0) * weight) / jnp.where(total > 0, total, 1.0)


def bpr(positive: jax.Array, negative: jax.Array, weight: jax.Array, *, double_sigmoid: bool = False) -> jax.Array:
  """Bayesian personalised ranking: mean of softplus(s⁻ − s⁺), that is −ln σ(s⁺ − s⁻) without underflow.

  Args:
    positive: float [B], scores of observed pairs.
    negative: float [B, num_negatives]; the loss of an example is the mean over its negatives.
    weight: float [B].
    double_sigmoid: squash both scores before their difference. This is LightUL's released loss, bounded below
      by ln(1 + e⁻¹) ≈ 0.313; it exists to reproduce that recipe.

  Returns:
    A scalar.

  References:
    Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009.
  """
  if double_sigmoid:
    positive, negative = jax.nn.sigmoid(positive), jax.nn.sigmoid(negative)
  return weighted_mean(jnp.mean(jax.nn.softplus(negative - positive[:, None]), axis=-1), weight)


def bce(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
  """Binary cross-entropy on logits: mean of softplus(x) − y·x. All arguments of one shape."""
  return weighted_mean(jax.nn.softplus(logits) - labels * logits, weight)


def row_sum(values: jax.Array) -> jax.Array:
  """Sum over the last axis, as a product with ones.

  XLA's CPU backend keeps the order of a sum and so adds one number at a time; its matrix-vector product is vectorised
  and takes a quarter of the time on 64 columns. The last bits differ from `jnp.sum`.
  """
  return jnp.matmul(values, jnp.ones(values.shape[-1], values.dtype), precision="highest")


def half_square(vectors: jax.Array) -> jax.Array:
  """½‖v‖² over the last axis: [..., d] -> [...]. The L2 term of one row."""
  return 0.5 * jnp.sum(jnp.square(vectors), axis=-1)


def l2_of_rows(user: jax.Array, positive: jax.Array, negative: jax.Array, weight: jax.Array) -> jax.Array:
  """Mean over examples of ½(‖u‖² + ‖i⁺‖² + mean ‖i⁻‖²): L2 on the *sampled rows*, per example, not per parameter.

  A row's share of it therefore grows with the number of examples it is part of: the Hessian, and with it every
  influence estimate, depends on that.

  Args:
    user: float [B, d].
    positive: float [B, d].
    negative: float [B, num_negatives, d].
    weight: float [B].
  """
  rows = half_square(user) + half_square(positive) + jnp.mean(half_square(negative), axis=-1)
  return weighted_mean(rows, weight)


@jax.custom_vjp
def bpr_of_rows(
  user: jax.Array, positive: jax.Array, negative: jax.Array, weight: jax.Array, l2: float | jax.Array
) -> jax.Array:
  """`bpr` of inner products plus `l2` times `l2_of_rows`, with a gradient that is written out.

  The same value and gradient as by differentiating the two; reverse-mode differentiation of this one is a third
  faster on a CPU, where the rows are read once instead of once a term (BUILD_NOTES, "Speed"). It has no forward mode
  of its own; `jax.jvp` of `jax.grad` works.

  Args:
    user: float [B, d].
    positive: float [B, d].
    negative: float [B, num_negatives, d].
    weight: float [B].
    l2: scalar.

  Returns:
    A scalar.
  """
  return _bpr_forward(user, positive, negative, weight, l2)[0]


def _bpr_forward(
  user: jax.Array, positive: jax.Array, negative: jax.Array, weight: jax.Array, l2: float | jax.Array
) -> tuple[jax.Array, tuple[jax.Array | float, ...]]:
  margin = row_sum(user[:, None, :] * (positive[:, None, :] - negative))  # [B, num_negatives]
  squares = 0.5 * row_sum(jnp.square(user) + jnp.square(positive) + jnp.mean(jnp.square(negative), axis=1))
  examples = jnp.mean(jax.nn.softplus(-margin), axis=-1) + l2 * squares
  value = weighted_mean(examples, weight)
  return value, (user, positive, negative, weight, l2, margin, squares, examples, value)


def _bpr_backward(residuals: tuple[Any, ...], cotangent: jax.Array) -> tuple[jax.Array, ...]:
  user, positive, negative, weight, l2, margin, squares, examples, value = residuals
  total = jnp.sum(weight)
  real = weight > 0
  scale = cotangent / jnp.where(total > 0, total, 1.0)
  share = jnp.where(real, weight, 0.0) * scale
  pull = share[:, None] * jax.nn.sigmoid(-margin) / margin.shape[1]
  each, decay = pull[:, :, None], (l2 * share)[:, None]
  return (
    decay * user - jnp.sum(each * (positive[:, None, :] - negative), axis=1),
    decay * positive - jnp.sum(pull, axis=1)[:, None] * user,
    decay[:, :, None] / margin.shape[1] * negative + each * user[:, None, :],
    scale * jnp.where(real, examples - value, 0.0),
    cotangent * weighted_mean(squares, weight),
  )


bpr_of_rows.defvjp(_bpr_forward, _bpr_backward)


def non_sampling_squares(
  user: jax.Array, item_table: jax.Array, pair_scores: jax.Array, pair_weight: jax.Array, unobserved_weight: float
) -> jax.Array:
  """Σ_{observed} (1 − ŷ)² + c₀ Σ_{unobserved} ŷ² over all items for the given users, without visiting them.

  Uses Σ_{u,v} ŷ² = ⟨PᵀP, QᵀQ⟩ for ŷ = ⟨p, q⟩, so the cost is O((B + I) d² + P d) instead of O(B I d).

  Args:
    user: float [B, d], rows of the batch's users; a padded row must be zero.
    item_table: float [I, d].
    pair_scores: float [P], ŷ of the observed pairs of these users.
    pair_weight: float [P], 1 for a pair and 0 for padding.
    unobserved_weight: c₀ in (0, 1], the weight of an unobserved entry.

  Returns:
    The sum (not the mean), the constant number of pairs included, so that it equals the naive double sum.

  References:
    Chen et al., Efficient Neural Matrix Factorization without Sampling for Recommendation, TOIS 2020, eq. 8.
  """
  observed = (1.0 - unobserved_weight) * jnp.square(pair_scores) - 2.0 * pair_scores + 1.0
  gram = jnp.sum((user.T @ user) * (item_table.T @ item_table))
  return jnp.sum(jnp.where(pair_weight > 0, observed, 0.0)) + unobserved_weight * gram
