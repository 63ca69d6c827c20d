"""A request to `rownewton` as arrays: weights and counts of examples before and after, and the rows that move."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.base import Model, Params
from jaxunlearn.data.interactions import Interactions, capacity_for
from jaxunlearn.unlearn._rownewton_sums import TILE, Rows
from jaxunlearn.unlearn._rownewton_terms import Problem

FAMILIES = {"bprmf": "bpr", "lightgcn": "bpr", "neumf": "bce", "wmf": "squares"}
_FORGET_SHARE = 16  # requests of up to 1/16 of the pairs' capacity share one shape, so one compilation


def loss_family(model: Model) -> str:
  """Which loss the model is trained by: bpr, bce or squares. Raises ValueError where that is not known."""
  if model.name not in FAMILIES or not hasattr(model.config, "l2"):
    raise ValueError(
      f"rownewton knows the training losses of {', '.join(FAMILIES)}, got model {model.name!r}. Use lightul or retrain."
    )
  if getattr(model.config, "loss", "bpr") != "bpr":
    raise ValueError(
      f"rownewton needs a convex loss of the score, got bprmf with loss={model.config.loss!r}. Use lightul or retrain."
    )
  return FAMILIES[model.name]


def make_problem(
  model: Model,
  interactions: Interactions,
  retained: Interactions,
  forget: Interactions,
  *,
  user_weight_power: float,
  train_negatives: int,
  damping: float,
) -> tuple[Problem, dict[str, Rows]]:
  """Everything on the device, at capacities that the next request shares; and the affected rows of each side."""
  family, num_users, num_items = loss_family(model), interactions.num_users, interactions.num_items
  capacity = capacity_for(len(interactions))
  power = 0.0 if family == "squares" else user_weight_power
  degrees = [data.user_degrees() for data in (interactions, retained)]
  weights = [np.maximum(degree, 1).astype(np.float64) ** -power for degree in degrees]
  counts = [
    _item_counts(data, weight, degree, draws=family != "squares")
    for data, weight, degree in zip((interactions, retained), weights, degrees, strict=True)
  ]
  of_item = np.repeat(np.arange(num_items, dtype=np.int32), retained.item_degrees())
  transposed = Interactions(of_item, retained.by_item()[1], num_items, num_users)
  of_family = {"bpr": 0.0, "bce": train_negatives, "squares": getattr(model.config, "unobserved_weight", 0.0)}
  problem = Problem(
    known=interactions.padded(capacity),
    retained=retained.padded(capacity),
    by_item=transposed.padded(capacity),
    forget=forget.padded(max(capacity_for(len(forget)), capacity // _FORGET_SHARE)),
    user_weight=jnp.asarray(weights[0], jnp.float32),
    new_weight=jnp.asarray(weights[1], jnp.float32),
    user_count=jnp.asarray(weights[1] * degrees[1], jnp.float32),
    item_count=jnp.asarray(counts[1], jnp.float32),
    # A user's terms have one weight in common, so its row is at the same place whatever that is: the new one, for all.
    user_removed=jnp.asarray(weights[1] * (degrees[0] - degrees[1]), jnp.float32),
    item_removed=jnp.asarray(counts[0] - counts[1], jnp.float32),
    l2=jnp.float32(model.config.l2),
    damping=jnp.float32(damping),
    unobserved=jnp.float32(of_family[family]),
  )
  return problem, _both_sides(model, interactions, retained, forget)


def every_row(model: Model, interactions: Interactions, retained: Interactions) -> dict[str, Rows]:
  """All rows that had a pair before the request, as `make_problem` gives the affected ones."""
  return _both_sides(model, interactions, retained, interactions)


def _both_sides(
  model: Model, interactions: Interactions, retained: Interactions, pairs: Interactions
) -> dict[str, Rows]:
  """The rows of the users and of the items of some pairs."""
  keeps = model.name == "lightgcn"
  sides = {
    "user": _rows(interactions.user_degrees(), retained.user_degrees(), pairs.user, keeps),
    "item": _rows(interactions.item_degrees(), retained.item_degrees(), pairs.item, keeps),
  }
  if loss_family(model) == "bpr":
    sides["item"] = sides["item"].replace(**_partners(retained, np.unique(pairs.item)))
  return sides


def _partners(retained: Interactions, items: np.ndarray) -> dict[str, jax.Array]:
  """The users who have a pair with one of the items, as `Rows` has them."""
  indptr, user = retained.by_item()
  length = indptr[items + 1] - indptr[items]
  first = np.repeat(indptr[items] - np.cumsum(length) + length, length)
  has = np.zeros(retained.num_users, bool)
  has[user[first + np.arange(first.size)]] = True
  found = np.flatnonzero(has)
  padded = np.zeros(retained.num_users, np.int32)
  padded[: found.size] = found
  return {"partners": jnp.asarray(padded), "num_partners": jnp.int32(found.size)}


def _item_counts(data: Interactions, weight: np.ndarray, degree: np.ndarray, *, draws: bool) -> np.ndarray:
  """float [num_items]: weighted examples with the item as positive and, in expectation, as a negative."""
  drawn = weight * degree / np.maximum(data.num_items - degree, 1) if draws else np.zeros_like(weight)
  return drawn.sum() + data.to_csr().T @ (weight - drawn)  # a sum over each item's pairs


def _quarter_capacity(count: int, num_pairs: int) -> int:
  """The smallest of 4/4, 5/4, 6/4, 7/4 of a power of two that holds `count`, in whole tiles.

  Of a request of few pairs, 8, 16 or 32, whatever its count, so that the next one like it has the same.
  """
  if num_pairs <= TILE:
    return max(8, 1 << (num_pairs - 1).bit_length())
  step = max(capacity_for(count) // 8, TILE)
  return -(-max(count, 1) // step) * step


def _rows(old: np.ndarray, new: np.ndarray, named: np.ndarray, keeps: bool) -> Rows:
  """The rows that are named; `keeps`: as many blocks are kept, so the capacity follows the request, at most 25 % above
  (powers of two would be up to 100 %)."""
  index = np.unique(named)
  index = index[np.argsort(-new[index], kind="stable")]
  capacity = _quarter_capacity(index.size, named.size) if keeps else -(-old.size // TILE) * TILE
  padded = np.zeros(capacity, np.int32)
  padded[: index.size] = index
  fresh = jnp.asarray((new == 0) & (old > 0))
  return Rows(index=jnp.asarray(padded), count=jnp.int32(index.size), fresh=fresh)


@functools.partial(jax.jit, static_argnames=("model",))
@jax.default_matmul_precision("highest")
def fresh_rows(key: jax.Array, params: Params, rows: dict[str, Rows], *, model: Model) -> Params:
  """Sets rows that have lost their last pair: a user's as drawn by `init`, an item's to 0, to be moved from there."""

  def drawn() -> jax.Array:
    return jnp.where(rows["user"].fresh[:, None], model.init(key, *sizes)["user"], params["user"])

  sizes = params["user"].shape[0], params["item"].shape[0]
  user = jax.lax.cond(jnp.any(rows["user"].fresh), drawn, lambda: params["user"])
  return {**params, "user": user, "item": jnp.where(rows["item"].fresh[:, None], 0.0, params["item"])}
