"""Lays a request of L2UnRank out in arrays of few shapes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.base import Embeddings, Model
from jaxunlearn.data.interactions import Interactions, capacity_for
from jaxunlearn.unlearn._l2unrank_config import L2UnRankConfig
from jaxunlearn.unlearn._l2unrank_rows import Examples, Static, System
from jaxunlearn.unlearn._l2unrank_stages import (
  NegativeRoles,
  Region,
  combined_influence,
  high_impact,
  influence_region,
  negative_roles,
  pair_weights,
  semantic_influence,
  structural_influence,
)

LOSSES = {"bprmf": "bpr", "lightgcn": "bpr", "neumf": "bce", "wmf": "squares"}  # what each model is trained by
_ROW_TIER, _PAIR_TIER, _STEP = 256, 1 << 16, 16  # capacities of the smallest requests, and between two tiers
_FEW_PAIRS = 1 << 14  # retained pairs that are never thinned out


def build_static(model: Model, config: L2UnRankConfig, *, propagates: bool) -> Static:
  """What a request's programs are compiled for: the loss that is differentiated, and the numbers of draws."""
  loss = LOSSES[model.name] if config.loss == "train" else "bpr"
  return Static(
    model=model,
    loss=loss,
    squash=config.loss == "train" and getattr(model.config, "loss", "") == "double_sigmoid",
    num_negatives=0 if loss == "squares" else config.num_negatives,
    curvature_negatives=0 if loss == "squares" else config.curvature_negatives,
    exact=config.curvature == "hessian",
    propagates=propagates,
    spillover=config.spillover,
  )


def build_system(
  key: jax.Array,
  static: Static,
  vectors: Embeddings,
  interactions: Interactions,
  retained: Interactions,
  forget: Interactions,
  config: L2UnRankConfig,
) -> tuple[System, Region]:
  """Stages 1 and 2, laid out for stage 3 at the capacities of the request's tier."""
  region = influence_region(interactions, retained, forget, config.hops)
  influence = combined_influence(
    structural_influence(interactions, region.scope),
    semantic_influence(vectors, region.scope, forget, joint=static.model.inner_product),
    region.scope,
    config.degree_weight,
    config.score_weight,
  )
  degree = interactions.user_degrees()
  user_weight = np.maximum(degree, 1).astype(np.float32) ** -config.user_weight_power
  user_weight[degree >= interactions.num_items] = 0.0  # nothing left to draw as a negative: training leaves them out
  if static.loss == "squares":
    user_weight = np.ones(interactions.num_users, np.float32)
  weight = pair_weights(influence, retained.select(region.support))
  rows = high_impact(region.support, weight, config.high_impact_ratio)
  by_row = np.zeros(len(retained), np.float32)
  by_row[region.support] = weight
  rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
  present = retained.user_degrees() > 0
  moving_users = np.flatnonzero(region.scope.user & present) if config.move != "items" else np.zeros(0, np.int64)
  moving_items = np.flatnonzero(region.scope.item) if config.move != "users" else np.zeros(0, np.int64)
  most = max(_FEW_PAIRS, config.pairs_per_row * (len(moving_users) + len(moving_items)))
  if config.pairs_per_row and most < len(rows):
    by_row *= len(rows) / most
    rows = rows[np.sort(rng.choice(len(rows), most, replace=False, shuffle=False))]
  roles = NegativeRoles(*(np.zeros(0, kind) for kind in (np.int32, np.int32, np.int32, np.float32)))
  if static.loss != "squares" and not static.propagates:
    roles = negative_roles(rng, interactions, retained, region, config.negative_roles)

  gone_item = region.scope.item & (retained.item_degrees() == 0) & (interactions.item_degrees() > 0)
  gone_item &= config.move != "users"
  num_support, num_pairs = len(rows) + len(roles.user), len(interactions)
  limit = capacity_for(num_pairs + config.negative_roles * interactions.num_items)
  level = 0
  while (
    max(len(moving_users), len(moving_items), len(forget)) > _ROW_TIER * _STEP**level
    or num_support > _PAIR_TIER * _STEP**level
  ):
    level += 1

  def table(moving: np.ndarray, size: int) -> tuple[jax.Array, jax.Array]:
    capacity = min(_ROW_TIER * _STEP**level, capacity_for(size))
    slot = np.full(size, capacity, np.int32)
    slot[moving] = np.arange(len(moving))
    rows = np.full(capacity, size, np.int32)
    rows[: len(moving)] = moving
    return jnp.asarray(rows), jnp.asarray(slot)

  user_rows, user_slot = table(moving_users, interactions.num_users)
  item_rows, item_slot = table(moving_items, interactions.num_items)
  drawn = np.full(len(rows), -1, np.int32)
  system = System(
    user_rows=user_rows,
    item_rows=item_rows,
    user_slot=user_slot,
    item_slot=item_slot,
    forget=_examples(
      forget.user,
      forget.item,
      np.full(len(forget), -1, np.int32),
      pair_weights(influence, forget) * user_weight[forget.user],
      min(_ROW_TIER * _STEP**level, capacity_for(num_pairs)),
    ),
    support=_examples(
      np.concatenate([retained.user[rows], roles.user]),
      np.concatenate([retained.item[rows], roles.positive]),
      np.concatenate([drawn, roles.negative]),
      np.concatenate([by_row[rows] * user_weight[retained.user[rows]], roles.weight * user_weight[roles.user]]),
      min(_PAIR_TIER * _STEP**level, limit),
    ),
    present=jnp.asarray(present.astype(np.float32)),
    gone_user=jnp.asarray((region.scope.user & ~present & (degree > 0)).astype(np.float32)),
    gone_item=jnp.asarray(gone_item.astype(np.float32)),
    known=interactions.padded(),
  )
  return system, region


def _examples(
  user: np.ndarray, positive: np.ndarray, negative: np.ndarray, weight: np.ndarray, capacity: int
) -> Examples:
  pad = (0, capacity - len(user))
  return Examples(
    user=jnp.asarray(np.pad(user, pad)),
    positive=jnp.asarray(np.pad(positive, pad)),
    negative=jnp.asarray(np.pad(negative, pad)),
    weight=jnp.asarray(np.pad(weight.astype(np.float32), pad)),
    count=jnp.asarray(len(user), jnp.int32),
  )
