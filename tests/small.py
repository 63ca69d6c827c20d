"""Small data that many tests share: a checkerboard whose right answer is known, and random pairs."""

import numpy as np

from jaxunlearn.data.interactions import Interactions


def checkerboard(size=40):
  """Even users like even items, odd users odd ones; each user's own number is left out, so it is the right top item."""
  user, item = np.divmod(np.arange(size * size), size)
  keep = (user % 2 == item % 2) & (user != item)
  return Interactions.from_pairs(user[keep], item[keep], num_users=size, num_items=size)


def random_pairs(seed=0, num_users=40, num_items=30, num_pairs=400):
  """Uniform pairs."""
  rng = np.random.default_rng(seed)
  return Interactions.from_pairs(
    rng.integers(0, num_users, num_pairs),
    rng.integers(0, num_items, num_pairs),
    num_users=num_users,
    num_items=num_items,
  )
