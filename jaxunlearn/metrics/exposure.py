"""How many users are shown items that they should not be."""

from __future__ import annotations

import numpy as np

from jaxunlearn._validate import check_positions, check_whole
from jaxunlearn.base import Scorer
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.metrics.ranking import top_k_items


def exposure(
  scorer: Scorer, users: np.ndarray, items: np.ndarray, k: int, *, mask: Interactions | None = None
) -> tuple[float, float]:
  """Share of the users with one of the items in their top k, and the mean number of these items there.

  The target is Retrain's share: the ratio to it is ERASE's RelItems@k, above 1 where too little is forgotten.

  Args:
    scorer: what is served.
    users: int [N], positions, N ≥ 1.
    items: int, positions.
    k: length of the lists, ≥ 1.
    mask: pairs that are not recommended (the retained ones), or None.

  Raises:
    ValueError: k < 1, no user, a user or item out of range or no integer, axes that differ, NaN scores.
  """
  check_whole("k", k)
  users, items = np.asarray(users), np.asarray(items)
  for name, array in (("users", users), ("items", items)):
    check_positions(name, array)
  if not users.size:
    raise ValueError("Expected at least one user to look at, got none.")
  if items.size and not (0 <= items.min() and items.max() < scorer.num_items):
    raise ValueError(f"Expected items in [0, {scorer.num_items}), got {items.min()} to {items.max()}.")
  top, _ = top_k_items(scorer, users, k, mask)
  shown = np.isin(top, items).sum(axis=1)
  return float((shown > 0).mean()), float(shown.mean())
