import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.base import Embeddings, Scorer, inner_product_score, scorer_of
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.metrics import RankingEvaluator, _chunks, evaluate, ranking, top_k_items
from jaxunlearn.models.popularity import popularity
from tests import oracles

KS = (1, 3, 10)


def distance_score(params, user_vectors, item_vectors):
  return -jnp.abs(user_vectors - item_vectors).sum(-1)


def make_scorer(seed=0, num_users=40, num_items=57, dim=5, score=inner_product_score):
  rng = np.random.default_rng(seed)
  # Whole numbers: sums are exact, so ties are real ones and any chunk size gives the same bits.
  user, item = (jnp.asarray(rng.integers(-3, 4, (n, dim)), jnp.float32) for n in (num_users, num_items))
  return Scorer(None, Embeddings(user, item), score, score is inner_product_score)


def make_data(seed=0, num_users=40, num_items=57, num_pairs=500):
  """Train and test pairs; users 3 and 7 have no test pair, user 5 no training pair."""
  rng = np.random.default_rng(seed)
  pairs = Interactions.from_pairs(
    rng.integers(0, num_users, num_pairs),
    rng.integers(0, num_items, num_pairs),
    num_users=num_users,
    num_items=num_items,
  )
  is_test = (rng.random(len(pairs)) < 0.3) & ~np.isin(pairs.user, [3, 7]) | (pairs.user == 5)
  return pairs.select(~is_test), pairs.select(is_test)


@pytest.mark.parametrize("score", [inner_product_score, distance_score])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("chunk_size", [None, 1, 7, 38, 1000])
def test_equals_the_double_loop(score, masked, chunk_size):
  train, test = make_data()
  scorer, mask = make_scorer(score=score), train if masked else None
  result = evaluate(scorer, test, mask=mask, ks=KS, chunk_size=chunk_size, per_user=True)
  naive = oracles.naive_ranking(np.asarray(scorer.scores(jnp.arange(40))), test, mask, KS)
  assert result.users.tolist() == sorted(set(test.user.tolist()))
  assert result.num_users == len(result.users) and result.num_skipped == 40 - len(result.users) >= 2
  assert set(result.values) == set(naive)
  for name, by_user in naive.items():
    np.testing.assert_allclose(result.per_user[name], [by_user[u] for u in result.users], rtol=1e-6, atol=1e-6)
    assert result.values[name] == pytest.approx(np.mean(list(by_user.values())), abs=1e-6)


def test_defaults():
  train, test = make_data()
  result = evaluate(make_scorer(), test, mask=train)
  assert list(result.values) == [f"{m}@{k}" for k in (10, 20, 50) for m in ("ndcg", "recall", "hr")]
  assert result.per_user is None


def test_long_rows_through_the_block_top_k():
  rng = np.random.default_rng(0)
  pairs = Interactions.from_pairs(rng.integers(0, 9, 900), rng.integers(0, 2100, 900), num_users=9, num_items=2100)
  is_test = rng.random(len(pairs)) < 0.5
  train, test = pairs.select(~is_test), pairs.select(is_test)
  scorer = make_scorer(num_users=9, num_items=2100, dim=3)
  got = evaluate(scorer, test, mask=train, ks=(5, 20), chunk_size=4)
  naive = oracles.naive_ranking(np.asarray(scorer.scores(jnp.arange(9))), test, train, (5, 20))
  assert got.values == pytest.approx({name: np.mean(list(v.values())) for name, v in naive.items()}, abs=1e-6)


def test_popularity_by_hand():
  # Degrees: item 0 has 3 pairs, 1 has 2, 2 has 1, 3 and 4 none; so everyone's order is 0 1 2 3 4.
  train = Interactions.from_pairs([0, 0, 1, 1, 2, 3], [0, 1, 0, 1, 0, 2], num_users=5, num_items=5)
  test = Interactions.from_pairs([0, 0, 2, 3], [2, 4, 1, 4], num_users=5, num_items=5)
  model = popularity()
  params = model.init(jax.random.key(0), 5, 5)
  scorer = scorer_of(model, params, model.context(train))
  result = evaluate(scorer, test, mask=train, ks=(1, 2, 10), per_user=True)
  # User 0 is left 2 3 4 and wants {2, 4}; user 2 is left 1 2 3 4 and wants {1}; user 3 is left 0 1 3 4, wants {4}.
  log = np.log2
  both, fourth = 1 + 1 / log(3), 1 / log(5)
  np.testing.assert_array_equal(result.users, [0, 2, 3])
  assert result.num_skipped == 2
  want = {
    "recall@1": [1 / 2, 1, 0], "recall@2": [1 / 2, 1, 0], "recall@10": [1, 1, 1],
    "hr@1": [1, 1, 0], "hr@2": [1, 1, 0], "hr@10": [1, 1, 1],
    "ndcg@1": [1, 1, 0], "ndcg@2": [1 / both, 1, 0], "ndcg@10": [(1 + 1 / log(4)) / both, 1, fourth],
  }  # fmt: skip
  for name, values in want.items():
    np.testing.assert_allclose(result.per_user[name], values, rtol=1e-6, err_msg=name)
    assert result.values[name] == pytest.approx(np.mean(values), rel=1e-6)


def test_masked_test_pairs_are_never_found():
  _, test = make_data()
  everything = np.divmod(np.arange(40 * 57), 57)
  all_masked = Interactions.from_pairs(*everything, num_users=40, num_items=57)
  values = evaluate(make_scorer(), test, mask=all_masked, ks=(3, 100)).values
  assert set(values.values()) == {0.0}


def test_perfect_scores_are_worth_one():
  _, test = make_data()
  scorer = Scorer(None, Embeddings(jnp.asarray(test.to_csr().toarray()), jnp.eye(57)), inner_product_score, True)
  values = evaluate(scorer, test, mask=None, ks=(1, 3, 57)).values
  assert values["recall@57"] == pytest.approx(1)
  for k in (1, 3, 57):
    assert values[f"ndcg@{k}"] == pytest.approx(1)
    assert values[f"hr@{k}"] == 1


def test_users_narrows_and_keeps_their_order():
  train, test = make_data()
  whole = evaluate(make_scorer(), test, mask=train, per_user=True)
  some = evaluate(make_scorer(), test, mask=train, users=np.array([30, 3, 8]), per_user=True)
  np.testing.assert_array_equal(some.users, [30, 8])
  assert (some.num_users, some.num_skipped) == (2, 1)
  at = [whole.users.tolist().index(u) for u in (30, 8)]
  np.testing.assert_array_equal(some.per_user["ndcg@10"], whole.per_user["ndcg@10"][at])


def test_a_second_scorer_does_not_trace_again(monkeypatch):
  traces = []

  def counted(params, user_vectors, item_vectors):
    traces.append("generic")
    return distance_score(params, user_vectors, item_vectors)

  def counted_top_k(*args):
    traces.append("inner product")
    return original(*args)

  original = ranking.top_k
  monkeypatch.setattr(ranking, "top_k", counted_top_k)
  train, test = make_data()
  evaluator = RankingEvaluator(test, train, (2, 4), chunk_size=6)  # shapes of no other test
  for score, name in ((inner_product_score, "inner product"), (counted, "generic")):
    for seed in range(3):
      evaluator(make_scorer(seed, score=score))
    RankingEvaluator(test, train.select(np.arange(len(train)) > 2), (2, 4), chunk_size=6)(make_scorer(9, score=score))
    assert traces.count(name) == 1, traces
    traces.clear()
  top_k_items(make_scorer(), np.array([1, 2, 3]), 4, train)
  top_k_items(make_scorer(1), np.array([30, 31, 30, 5]), 4, train)
  assert traces == ["inner product"]
  traces.clear()
  for num_users in (5, 8, 7):  # 3 and 4 chunks of users, but 4 of rows
    top_k_items(make_scorer(), np.arange(num_users), 4, train, chunk_size=2)
  assert traces == ["inner product"]


def test_padded_rows_change_nothing_and_other_users_share_their_program():
  train, test = make_data(num_pairs=700)  # 256 < pairs to mask ≤ 512, of all users and of all but three
  scorer = make_scorer()
  users = np.flatnonzero(test.user_degrees())
  plain = RankingEvaluator(test, train, (3,))(scorer, per_user=True)
  padded = RankingEvaluator(test, train, (3,), pad=True)(scorer, per_user=True)
  assert padded.num_users == plain.num_users == users.size and padded.num_skipped == plain.num_skipped
  for name, value in plain.per_user.items():
    np.testing.assert_allclose(padded.per_user[name], value, rtol=1e-6)
  traced = ranking._evaluate._cache_size()
  fewer = RankingEvaluator(test, train, (3,), users=users[:-3], pad=True)(scorer)
  assert fewer.num_users == users.size - 3 and ranking._evaluate._cache_size() == traced
  RankingEvaluator(test, train, (3,), users=users[:-3])(scorer)
  assert ranking._evaluate._cache_size() == traced + 1


def test_generic_scorers_get_smaller_chunks():
  inner, generic = make_scorer(num_items=4000, dim=8), make_scorer(num_items=4000, dim=8, score=distance_score)
  big, small = (_chunks.chunk_size_for(s, 10**6, None) for s in (inner, generic))
  assert big // 17 <= small <= big // 15  # two vectors of 8


@pytest.mark.parametrize("score", [inner_product_score, distance_score])
def test_nan_scores_raise_with_their_number(score):
  train, test = make_data()
  scorer = make_scorer(score=score)
  user, item = scorer.vectors
  broken = scorer.replace(vectors=Embeddings(user.at[4].set(jnp.nan), item))
  scored = len(np.unique(test.user))
  with pytest.raises(ValueError, match=f"got 57 NaN of {scored * 57:,}, in the rows of 1 users"):
    evaluate(broken, test, mask=train, chunk_size=7)
  with pytest.raises(ValueError, match="got 57 NaN of 114"):
    top_k_items(broken, np.array([4, 5]), 3)
  top_k_items(broken, np.array([5, 6, 7]), 3)  # rows that are not asked for do not matter
  item_broken = scorer.replace(vectors=Embeddings(user, item.at[2].set(-jnp.nan)))
  with pytest.raises(ValueError, match=f"got {scored} NaN"):
    evaluate(item_broken, test, mask=train, chunk_size=7)


def test_infinite_scores_are_no_nan():
  def both_ends(params, user_vectors, item_vectors):
    return jnp.where(item_vectors[..., 0] > 0, jnp.inf, -jnp.inf) + 0 * user_vectors[..., 0]

  train, test = make_data()
  scorer = make_scorer(score=both_ends)
  naive = oracles.naive_ranking(np.asarray(scorer.scores(jnp.arange(40))), test, train, (50,))
  got = evaluate(scorer, test, mask=train, ks=(50,)).values["recall@50"]
  assert got == pytest.approx(np.mean(list(naive["recall@50"].values())), abs=1e-6)


def test_rejects():
  train, test = make_data()
  scorer, narrow = make_scorer(), make_data(num_items=56)[0]
  with pytest.raises(ValueError, match="test over the scorer's 41 users"):
    evaluate(make_scorer(num_users=41), test, mask=train)
  with pytest.raises(ValueError, match="Expected mask over"):
    evaluate(scorer, test, mask=narrow)
  with pytest.raises(ValueError, match="same users and items"):
    RankingEvaluator(test, narrow)
  with pytest.raises(ValueError, match="k=0 to be a whole number > 0"):
    evaluate(scorer, test, mask=train, ks=(10, 0))
  with pytest.raises(ValueError, match="at least one cutoff"):
    evaluate(scorer, test, mask=train, ks=())
  with pytest.raises(ValueError, match=r"in \[0, 40\), got 40"):
    evaluate(scorer, test, mask=train, users=np.array([1, 40]))
  with pytest.raises(ValueError, match="distinct"):
    evaluate(scorer, test, mask=train, users=np.array([1, 1]))
  with pytest.raises(ValueError, match="at least one user with a test pair"):
    evaluate(scorer, test, mask=train, users=np.array([3, 7]))
  with pytest.raises(ValueError, match="chunk_size=0"):
    evaluate(scorer, test, mask=train, chunk_size=0)
  with pytest.raises(ValueError, match="got -1"):
    top_k_items(scorer, np.array([-1]), 3)
  with pytest.raises(ValueError, match="k=0"):
    top_k_items(scorer, np.array([1]), 0)


@pytest.mark.parametrize("chunk_size", [None, 1, 4])
@pytest.mark.parametrize("k", [1, 5, 57, 80])
def test_top_k_items_equals_a_sort(chunk_size, k):
  train, _ = make_data()
  scorer, users = make_scorer(), np.array([9, 0, 9, 39, 5, 17, 2])
  items, scores = top_k_items(scorer, users, k, train, chunk_size=chunk_size)
  dense = np.asarray(scorer.scores(jnp.arange(40))).copy()
  dense[train.user, train.item] = -np.inf
  assert items.shape == scores.shape == (7, k)
  for row, user in enumerate(users):
    want = oracles.naive_top_k(dense[user], k)
    want = want[dense[user][want] > -np.inf]
    np.testing.assert_array_equal(items[row], np.pad(want, (0, k - len(want)), constant_values=-1))
    np.testing.assert_array_equal(scores[row], np.pad(dense[user][want], (0, k - len(want)), constant_values=-np.inf))


def test_top_k_items_of_nobody():
  items, scores = top_k_items(make_scorer(), np.zeros(0, np.int32), 4)
  assert items.shape == scores.shape == (0, 4)
