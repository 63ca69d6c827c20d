"""Drawing forget sets: at random by pair, user or item, and CURE4Rec's core and edge selections.

Every function returns `Interactions` over the same axes, a proper subset of what it was given.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from jaxunlearn._validate import check_choice, check_fraction
from jaxunlearn.data.interactions import Interactions

By = Literal["interaction", "user", "item"]
Selection = Literal["random", "core", "edge"]


def _target(interactions: Interactions, ratio: float) -> int:
  """⌊N · ratio⌋ >= 1; the epsilon undoes binary rounding (100 · 0.29 is 28.999…)."""
  check_fraction("ratio", ratio)
  target = math.floor(len(interactions) * ratio + 1e-9)
  if target == 0:
    raise ValueError(f"ratio={ratio} of {len(interactions)} pairs is no pair at all; raise it.")
  return target


def _degrees(interactions: Interactions, by: str) -> tuple[np.ndarray, np.ndarray]:
  """(entity of each row [N], pairs of each entity [E])."""
  if by == "user":
    return interactions.user, interactions.user_degrees()
  check_choice("by", by, ("user", "item"))
  return interactions.item, interactions.item_degrees()


def _pairs_of(interactions: Interactions, entity: np.ndarray, chosen: np.ndarray, size: int) -> Interactions:
  wanted = np.zeros(size, bool)
  wanted[chosen] = True
  rows = wanted[entity]
  if rows.all():
    raise ValueError(
      f"Forgetting these {len(chosen)} entities forgets all {len(interactions)} pairs, which leaves nothing to serve; "
      "lower the ratio."
    )
  return interactions.select(rows)


def sample_interactions(rng: np.random.Generator, interactions: Interactions, ratio: float) -> Interactions:
  """⌊N · ratio⌋ pairs, uniformly without replacement.

  Raises:
    ValueError: ratio is outside (0, 1), or so small that nothing is forgotten.
  """
  rows = rng.permutation(len(interactions))[: _target(interactions, ratio)]
  return interactions.select(np.sort(rows))


def _sample_entities(rng: np.random.Generator, interactions: Interactions, ratio: float, by: str) -> Interactions:
  target = _target(interactions, ratio)
  entity, degrees = _degrees(interactions, by)
  shuffled = rng.permutation(np.flatnonzero(degrees))
  # The first prefix that reaches the target: LightUL stops at the entity that crosses it, and keeps that one whole.
  needed = int(np.searchsorted(np.cumsum(degrees[shuffled]), target)) + 1
  return _pairs_of(interactions, entity, shuffled[:needed], degrees.size)


def sample_users(rng: np.random.Generator, interactions: Interactions, ratio: float) -> Interactions:
  """All pairs of users taken in random order until there are at least ⌊N · ratio⌋ pairs (LightUL's rule).

  Raises:
    ValueError: ratio is outside (0, 1), nothing or everything would be forgotten.
  """
  return _sample_entities(rng, interactions, ratio, "user")


def sample_items(rng: np.random.Generator, interactions: Interactions, ratio: float) -> Interactions:
  """All pairs of items taken in random order until there are at least ⌊N · ratio⌋ pairs (LightUL's rule).

  Raises:
    ValueError: ratio is outside (0, 1), nothing or everything would be forgotten.
  """
  return _sample_entities(rng, interactions, ratio, "item")


def _ranked(interactions: Interactions, ratio: float, by: str, sign: int) -> Interactions:
  check_fraction("ratio", ratio)
  entity, degrees = _degrees(interactions, by)
  active = np.flatnonzero(degrees)
  count = math.floor(active.size * ratio + 1e-9)
  if count == 0:
    raise ValueError(f"ratio={ratio} of {active.size} {by}s with pairs is none at all; raise it.")
  chosen = active[np.argsort(sign * degrees[active], kind="stable")[:count]]
  return _pairs_of(interactions, entity, chosen, degrees.size)


def select_core(interactions: Interactions, ratio: float, by: Literal["user", "item"] = "user") -> Interactions:
  """All pairs of the ⌊E · ratio⌋ users (or items) with the most pairs (CURE4Rec's core).

  Here `ratio` is a share of the E entities that have pairs, not of the pairs. Of entities with equally many, the
  one with the smaller position comes first.

  Raises:
    ValueError: ratio is outside (0, 1), nothing or everything would be forgotten.
  """
  return _ranked(interactions, ratio, by, -1)


def select_edge(interactions: Interactions, ratio: float, by: Literal["user", "item"] = "user") -> Interactions:
  """All pairs of the ⌊E · ratio⌋ users (or items) with the fewest pairs, at least one (CURE4Rec's edge).

  Ratio and ties as in `select_core`: a share of entities; the smaller position comes first.

  Raises:
    ValueError: ratio is outside (0, 1), nothing or everything would be forgotten.
  """
  return _ranked(interactions, ratio, by, 1)


def sample_forget(
  rng: np.random.Generator | None,
  interactions: Interactions,
  *,
  by: By = "interaction",
  ratio: float = 0.01,
  selection: Selection = "random",
) -> Interactions:
  """One front for all forget sets.

  Args:
    rng: the source of randomness; core and edge draw nothing and accept None.
    interactions: the training pairs.
    by: what a request names: single pairs, whole users or whole items.
    ratio: in (0, 1): share of the pairs for selection="random", share of the entities for "core" and "edge".
    selection: "random", or the entities with the most ("core") or fewest ("edge") pairs.

  Raises:
    ValueError: an option is unknown, core or edge is asked of single pairs, or the ratio forgets nothing or
      everything.
  """
  check_choice("by", by, ("interaction", "user", "item"))
  check_choice("selection", selection, ("random", "core", "edge"))
  if selection == "core":
    return select_core(interactions, ratio, _entity(by, selection))
  if selection == "edge":
    return select_edge(interactions, ratio, _entity(by, selection))
  if rng is None:
    raise ValueError("Expected a generator for selection='random'; pass np.random.default_rng(seed).")
  if by == "interaction":
    return sample_interactions(rng, interactions, ratio)
  return _sample_entities(rng, interactions, ratio, by)


def _entity(by: By, selection: str) -> Literal["user", "item"]:
  if by == "interaction":
    raise ValueError(f"selection={selection!r} ranks users or items by their pairs; pass by='user' or 'item'.")
  return by
