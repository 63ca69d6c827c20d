import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxunlearn.base import Embeddings, Scorer, inner_product_score
from jaxunlearn.metrics import distance
from tests.small import random_pairs

USERS, ITEMS = 40, 30


def scorer_of_matrix(scores):
  scores = jnp.asarray(scores, jnp.float32)
  return Scorer(None, Embeddings(jnp.eye(scores.shape[0]), scores.T), inner_product_score, True)


def matrices(high=15):
  rng = np.random.default_rng(0)
  a = rng.integers(0, high, (USERS, ITEMS)).astype(np.float32)  # with ties
  return a, a + rng.integers(-4, 5, (USERS, ITEMS)).astype(np.float32)


def test_differences_and_pooled_spearman_equal_scipy():
  a, b = matrices()
  pairs = distance.sample_pairs(USERS, ITEMS, num_pairs=300, seed=3)
  x, y = a[pairs.user, pairs.item], b[pairs.user, pairs.item]
  got = distance.mean_absolute_difference(scorer_of_matrix(a), scorer_of_matrix(b), pairs)
  assert got == pytest.approx(sum(abs(float(p) - float(q)) for p, q in zip(x, y, strict=True)) / len(pairs))
  got = distance.pair_spearman(scorer_of_matrix(a), scorer_of_matrix(b), pairs)
  assert got == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_each_users_spearman_equals_scipy(chunk_size):
  a, b = matrices()
  mean, rows = distance.user_spearman(scorer_of_matrix(a), scorer_of_matrix(b), chunk_size=chunk_size)
  wanted = [scipy.stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
  np.testing.assert_allclose(rows, wanted, atol=1e-6)
  assert mean == pytest.approx(np.mean(wanted), abs=1e-6)


def test_a_user_without_a_ranking_is_left_out_of_the_mean():
  a, b = matrices()
  b[7] = 2.0
  mean, rows = distance.user_spearman(scorer_of_matrix(a), scorer_of_matrix(b))
  assert np.flatnonzero(np.isnan(rows)).tolist() == [7]
  assert mean == pytest.approx(np.mean(np.delete(rows, 7)), abs=1e-6)


def test_the_drawn_users_depend_on_the_seed_alone():
  a, b = map(scorer_of_matrix, matrices())
  first = distance.user_spearman(a, b, num_users=9, seed=4)[1]
  assert len(first) == 9
  np.testing.assert_array_equal(first, distance.user_spearman(a, b, num_users=9, seed=4)[1])
  np.testing.assert_allclose(first, distance.user_spearman(b, a, num_users=9, seed=4)[1], atol=1e-6)
  assert not np.array_equal(first, distance.user_spearman(a, b, num_users=9, seed=5)[1])


@pytest.mark.parametrize("k", [1, 5, 30, 100])
def test_overlap_equals_sets(k):
  a, b = matrices()
  mask = random_pairs()
  mask = mask.union(
    type(mask).from_pairs(np.full(ITEMS, 3), np.arange(ITEMS), num_users=USERS, num_items=ITEMS)
  )  # user 3 has nothing left
  seen = set(zip(mask.user.tolist(), mask.item.tolist(), strict=True))
  wanted = []
  for user in range(USERS):
    left = [i for i in range(ITEMS) if (user, i) not in seen]
    lists = [set(sorted(left, key=lambda i, r=row: (-r[i], i))[:k]) for row in (a[user], b[user])]
    if left:
      wanted.append(len(lists[0] & lists[1]) / max(map(len, lists)))
  assert len(wanted) == USERS - 1
  got = distance.overlap_at_k(scorer_of_matrix(a), scorer_of_matrix(b), k, mask=mask)
  assert got == pytest.approx(np.mean(wanted))


def test_an_empty_place_is_no_item():
  """User 1 has nothing left to list, and user 0's two lists have nothing in common."""
  a, b = np.array([[0.0, 1, 2], [0, 0, 0]]), np.array([[2.0, 1, 0], [0, 0, 0]])
  mask = random_pairs()
  mask = type(mask).from_pairs([1, 1, 1], [0, 1, 2], num_users=2, num_items=3)
  for k, wanted in ((1, 0.0), (2, 0.5)):
    assert distance.overlap_at_k(scorer_of_matrix(a), scorer_of_matrix(b), k, mask=mask) == wanted


def test_all_distances_at_once_and_of_a_scorer_to_itself():
  a, b = map(scorer_of_matrix, matrices())
  got = distance.score_distance(a, b, ks=(5,), num_pairs=500, num_users=11, seed=2)
  pairs = distance.sample_pairs(USERS, ITEMS, num_pairs=500, seed=2)
  assert got.mean_abs == distance.mean_absolute_difference(a, b, pairs)
  assert got.relative_abs == pytest.approx(got.mean_abs / np.std(matrices()[1][pairs.user, pairs.item]), rel=1e-6)
  assert got.spearman == distance.pair_spearman(a, b, pairs)
  assert got.user_spearman == distance.user_spearman(a, b, num_users=11, seed=2)[0]
  assert got.overlap == {5: distance.overlap_at_k(a, b, 5)}
  assert (got.num_pairs, got.num_users) == (len(pairs), 11)
  same = distance.score_distance(a, a, ks=(5,))
  assert same.mean_abs == 0 and same.spearman == pytest.approx(1) and same.overlap == {5: 1.0}
  assert same.user_spearman == pytest.approx(1)


def test_only_the_raw_difference_knows_the_scale():
  a, b = matrices()
  small = distance.score_distance(scorer_of_matrix(a), scorer_of_matrix(b))
  large = distance.score_distance(scorer_of_matrix(8 * a), scorer_of_matrix(8 * b))
  assert large.mean_abs == pytest.approx(8 * small.mean_abs)
  for name in ("relative_abs", "spearman", "user_spearman", "overlap"):
    assert getattr(large, name) == pytest.approx(getattr(small, name))


def test_what_cannot_be_compared_is_refused():
  a, b = map(scorer_of_matrix, matrices())
  other = scorer_of_matrix(np.zeros((3, 4)))
  for function in (distance.score_distance, distance.user_spearman):
    with pytest.raises(ValueError, match="same"):
      function(a, other)
  with pytest.raises(ValueError, match="at least one pair"):
    distance.mean_absolute_difference(a, b, random_pairs().select(np.zeros(0, int)))
  with pytest.raises(ValueError, match=r"position|at least one user"):
    distance.user_spearman(a, b, users=np.asarray([USERS]))
  broken = matrices()[0]
  broken[:, 3] = np.inf
  with pytest.raises(ValueError, match="inite"):
    distance.user_spearman(scorer_of_matrix(broken), b)
  with pytest.raises(ValueError, match="finite scores from scorer"):
    distance.score_distance(scorer_of_matrix(broken), b)
