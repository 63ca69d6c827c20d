"""The parts of `leave_one_out`: a small problem, its exact training, and how well changes are predicted."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy  # scipy.stats, half a second of imports, is loaded when it is first used

from experiments import _names
from jaxunlearn.base import Params
from jaxunlearn.data.interactions import Interactions

_LEARNING_RATE = 0.05
_FEWEST = 5  # pairs of a user


def small_part(rng: np.random.Generator, data: Interactions, num_users: int, num_items: int) -> Interactions:
  """The pairs of the most popular items with users drawn from those who have at least `_FEWEST` of them.

  Raises:
    ValueError: the data have fewer users or items than asked for.
  """
  if num_users > data.num_users or num_items > data.num_items:
    raise ValueError(
      f"Expected at most {data.num_users} users and {data.num_items} items, which the data have, got "
      f"--num_users={num_users}, --num_items={num_items}."
    )
  items = np.sort(np.argsort(-data.item_degrees(), kind="stable")[:num_items])
  place = np.full(data.num_items, -1)
  place[items] = np.arange(num_items)
  kept = place[data.item] >= 0
  degree = np.bincount(data.user[kept], minlength=data.num_users)
  # A user with every item has nothing to compare with.
  some = np.flatnonzero((degree >= _FEWEST) & (degree < num_items - 1))
  if len(some) < num_users:
    raise ValueError(f"Expected {num_users} users with {_FEWEST} of the {num_items} items or more, found {len(some)}.")
  users = np.sort(rng.choice(some, num_users, replace=False))
  row = np.full(data.num_users, -1)
  row[users] = np.arange(num_users)
  kept &= row[data.user] >= 0
  return Interactions.from_pairs(row[data.user[kept]], place[data.item[kept]], num_users=num_users, num_items=num_items)


def expected_loss(params: Params, member: jax.Array, l2: jax.Array) -> jax.Array:
  """BPR-MF's objective, expected over negatives: what `train.fit` minimises by draws, examples weighing degree^−½.

  Args:
    params: {"user": [U, d], "item": [I, d]}.
    member: float [U, I], 1 for a pair.
    l2: weight of the L2 term.
  """
  users, items = params["user"], params["item"]
  scores, degree = users @ items.T, jnp.sum(member, axis=1)
  weight = jnp.where(degree > 0, jnp.maximum(degree, 1.0) ** -0.5, 0.0)
  odds = (1 - member) / jnp.maximum(items.shape[0] - degree, 1)[:, None]
  ranking = jax.nn.softplus(scores[:, None, :] - scores[:, :, None])  # [U, positive, negative]
  ranked = jnp.einsum("u,up,un,upn->", weight, member, odds, ranking)
  squares = {side: 0.5 * jnp.sum(jnp.square(table), axis=1) for side, table in params.items()}
  drawn = weight @ member + (weight * degree) @ odds  # how often an item takes part
  return ranked + l2 * (jnp.sum(weight * degree * squares["user"]) + jnp.sum(drawn * squares["item"]))


@functools.partial(jax.jit, static_argnames="steps")
def descend(params: Params, member: jax.Array, l2: jax.Array, *, steps: int) -> tuple[Params, jax.Array]:
  """Full-batch Adam with a step size that falls to 0; the parameters and the largest entry of their gradient."""
  optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, steps))
  gradient = jax.grad(expected_loss)

  def step(_: jax.Array, carry: Any) -> Any:
    params, state = carry
    updates, state = optimizer.update(gradient(params, member, l2), state, params)
    return optax.apply_updates(params, updates), state

  params, _ = jax.lax.fori_loop(0, steps, step, (params, optimizer.init(params)))
  return params, optax.tree.norm(gradient(params, member, l2), ord=jnp.inf)


def score(params: Params, user: int, item: int) -> float:
  """⟨user, item⟩ in float64: differences of two of them are small."""
  return float(np.asarray(params["user"][user], np.float64) @ np.asarray(params["item"][item], np.float64))


def agreement(predicted: Sequence[float], true: Sequence[float]) -> dict[str, float]:
  """Pearson's and Spearman's correlation, and the slope of the true on the predicted changes through the origin."""
  x, y = np.asarray(predicted), np.asarray(true)
  if not (np.ptp(x) > 0 and np.ptp(y) > 0):
    return {"pearson": float("nan"), "spearman": float("nan"), "slope": float("nan")}
  return {
    "pearson": float(np.corrcoef(x, y)[0, 1]),
    "spearman": float(scipy.stats.spearmanr(x, y).statistic),
    "slope": float((x @ y) / (x @ x)),
  }


def draw(predicted: dict[str, list[float]], true: Sequence[float], path: Path) -> list[Path]:
  """A panel a method, the line of equality in each; nothing where matplotlib is not installed."""
  try:
    from experiments import _plot
  except ImportError:
    print("No plot: matplotlib is not installed; pip install 'jaxunlearn[plots]' adds it.", file=sys.stderr)
    return []
  panels = [
    (f"{_names.display(m)}: Pearson {agreement(x, true)['pearson']:.3f}", x, list(true)) for m, x in predicted.items()
  ]
  return _plot.scatter(panels, path, "predicted change of the pair's score", "by leave-one-out retraining")
