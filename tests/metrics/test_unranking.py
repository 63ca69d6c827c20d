import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.base import Embeddings, Scorer, inner_product_score
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.metrics.unranking import forgotten_ranks, rank_shift, unranking
from tests.small import random_pairs


def scorer_of_matrix(scores):
  """Serves exactly the scores of a matrix."""
  scores = jnp.asarray(scores, jnp.float32)
  return Scorer(None, Embeddings(jnp.eye(scores.shape[0]), scores.T), inner_product_score, True)


def tied_scores(seed, data):
  return np.random.default_rng(seed).integers(0, 12, (data.num_users, data.num_items)).astype(np.float32)


def naive_ranks(scores, forget, retained):
  kept = set(zip(retained.user.tolist(), retained.item.tolist(), strict=True))
  out = []
  for user, item in zip(forget.user.tolist(), forget.item.tolist(), strict=True):
    rank = 1.0
    for other in range(scores.shape[1]):
      if other != item and (user, other) not in kept:
        rank += 1.0 if scores[user, other] > scores[user, item] else 0.5 * (scores[user, other] == scores[user, item])
    out.append(rank)
  return np.asarray(out)


def setup(count=37):
  data = random_pairs()
  forget = data.select(np.sort(np.random.default_rng(1).choice(len(data), count, replace=False)))
  return data, forget, data.without(forget)


@pytest.mark.parametrize("chunk_size", [None, 1, 7])
def test_ranks_with_ties_equal_a_double_loop(chunk_size):
  data, forget, retained = setup()
  scores = tied_scores(0, data)
  got = forgotten_ranks(scorer_of_matrix(scores), forget, mask=retained, chunk_size=chunk_size)
  np.testing.assert_array_equal(got, naive_ranks(scores, forget, retained))


def test_shares_and_means_are_those_of_the_ranks():
  data, forget, retained = setup()
  scores = tied_scores(0, data)
  ranks = naive_ranks(scores, forget, retained)
  got = unranking(scorer_of_matrix(scores), forget, mask=retained, ks=(3, 10))
  assert got.outside == {3: np.mean(ranks > 3), 10: np.mean(ranks > 10)}
  assert got.mean_rank == pytest.approx(ranks.mean())
  for user, number in zip(forget.user, got.num_candidates, strict=True):
    assert number == data.num_items - np.sum(retained.user == user)


def test_a_score_of_minus_infinity_ties_with_no_masked_item():
  data, forget, retained = setup()
  scores = tied_scores(0, data)
  user, item = forget.user[0], forget.item[0]
  scorer = scorer_of_matrix(scores)
  scorer = scorer.replace(
    inner_product=False, score=lambda _, u, i: jnp.where(jnp.sum(u * i, axis=-1) > 2, jnp.sum(u * i, axis=-1), -jnp.inf)
  )
  clipped = np.where(scores > 2, scores, -np.inf)
  clipped[user, item] = -np.inf
  got = forgotten_ranks(scorer, forget, mask=retained)
  low = scores[forget.user, forget.item] <= 2
  assert low.any()
  np.testing.assert_array_equal(got, naive_ranks(np.where(scores > 2, scores, -np.inf), forget, retained))


def test_the_shift_is_positive_where_an_item_went_down():
  data, forget, retained = setup()
  before, after = tied_scores(0, data), tied_scores(0, data)
  after[forget.user, forget.item] -= 100
  got = rank_shift(scorer_of_matrix(before), scorer_of_matrix(after), forget, mask=retained)
  wanted = naive_ranks(after, forget, retained) - naive_ranks(before, forget, retained)
  np.testing.assert_array_equal(got.shifts, wanted)
  assert got.mean == pytest.approx(wanted.mean()) and got.median == np.median(wanted) and got.mean > 0


def test_an_inner_product_ranks_the_same_in_any_chunks():
  data, forget, retained = setup()
  rng = np.random.default_rng(3)
  vectors = Embeddings(jnp.asarray(rng.normal(size=(40, 8))), jnp.asarray(rng.normal(size=(30, 8))))
  scorer = Scorer(None, vectors, inner_product_score, True)
  scores = np.asarray(vectors.user, np.float64) @ np.asarray(vectors.item, np.float64).T
  np.testing.assert_array_equal(forgotten_ranks(scorer, forget, mask=retained), naive_ranks(scores, forget, retained))


def test_what_cannot_be_ranked_is_refused():
  data, forget, retained = setup()
  scorer = scorer_of_matrix(tied_scores(0, data))
  with pytest.raises(ValueError, match="37 forgotten ones"):
    unranking(scorer, forget, mask=data)
  with pytest.raises(ValueError, match="at least one forgotten pair"):
    unranking(scorer, data.select(np.zeros(0, int)), mask=retained)
  with pytest.raises(ValueError, match="k=0"):
    unranking(scorer, forget, mask=retained, ks=(0,))
  with pytest.raises(ValueError, match="forget"):
    unranking(scorer, Interactions.from_pairs([0], [0], num_users=3, num_items=3), mask=retained)
  broken = tied_scores(0, data)
  broken[forget.user[0], 4] = np.nan
  with pytest.raises(ValueError, match="got NaN for"):
    unranking(scorer_of_matrix(broken), forget, mask=retained)
