"""Exposure against a loop over users."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.base import Embeddings, Scorer, inner_product_score
from jaxunlearn.data import Interactions
from jaxunlearn.metrics.exposure import exposure

NUM_USERS, NUM_ITEMS = 30, 25


def served():
  rng = np.random.default_rng(0)
  vectors = Embeddings(*(jnp.asarray(rng.normal(size=(n, 4)), jnp.float32) for n in (NUM_USERS, NUM_ITEMS)))
  return Scorer(None, vectors, inner_product_score, True)


@pytest.mark.parametrize("masked", [True, False])
def test_exposure_is_counted_user_by_user(masked):
  scorer, rng = served(), np.random.default_rng(1)
  seen = Interactions.from_pairs(
    rng.integers(0, NUM_USERS, 200), rng.integers(0, NUM_ITEMS, 200), num_users=NUM_USERS, num_items=NUM_ITEMS
  )
  users, items = np.array([3, 4, 9, 20, 29]), np.array([1, 7, 8])
  scores = np.asarray(scorer.scores(jnp.arange(NUM_USERS))).copy()
  if masked:
    scores[seen.user, seen.item] = -np.inf
  counts = []
  for user in users:
    top = [i for i in np.argsort(-scores[user]) if np.isfinite(scores[user, i])][:5]
    counts.append(len(set(top) & set(items.tolist())))
  share, mean = exposure(scorer, users, items, 5, mask=seen if masked else None)
  assert share == pytest.approx(np.mean(np.array(counts) > 0)) and mean == pytest.approx(np.mean(counts))
  assert 0 < share < 1 or mean > 0


def test_no_item_is_never_shown():
  assert exposure(served(), np.array([0, 1]), np.array([], int), 5) == (0.0, 0.0)


@pytest.mark.parametrize(
  ("users", "items", "k", "words"),
  [
    ([], [0], 5, "at least one user"),
    ([0], [25], 5, r"items in \[0, 25\)"),
    ([0], [0], 0, "k=0"),
    ([30], [0], 5, "30"),
  ],
)
def test_what_is_out_of_range_is_refused(users, items, k, words):
  with pytest.raises(ValueError, match=words):
    exposure(served(), np.array(users, int), np.array(items, int), k)


def test_a_mask_is_not_taken_for_positions():
  mask = np.arange(NUM_ITEMS) == 4
  with pytest.raises(ValueError, match="items as integer positions, got bool: np.flatnonzero"):
    exposure(served(), np.array([0, 1]), mask, 5)
  with pytest.raises(ValueError, match="users as integer positions, got bool"):
    exposure(served(), np.ones(NUM_USERS, bool), np.array([4]), 5)
