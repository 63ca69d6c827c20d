import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxunlearn.base import Embeddings, Scorer, inner_product_score
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.metrics import auc, completeness, completeness_auc, completeness_probe, pair_scores
from tests import oracles

scores = st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, np.inf]), min_size=1, max_size=30)


def scorer_of(user, item, score=inner_product_score, inner_product=True):
  return Scorer(None, Embeddings(jnp.asarray(user, jnp.float32), jnp.asarray(item, jnp.float32)), score, inner_product)


def random_pairs(seed, num_users=20, num_items=30, count=200):
  rng = np.random.default_rng(seed)
  return Interactions.from_pairs(
    rng.integers(0, num_users, count), rng.integers(0, num_items, count), num_users=num_users, num_items=num_items
  )


def halves(seed=0, every=3):
  data = random_pairs(seed)
  forget = data.select(np.arange(len(data)) % every == 0)
  return data.without(forget), forget


@settings(deadline=None)
@given(scores, scores)
def test_auc_equals_the_double_loop(positive, negative):
  assert auc(np.array(positive), np.array(negative)) == pytest.approx(oracles.naive_auc(positive, negative), abs=1e-12)


def test_auc_equals_scikit_learn():
  sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
  rng = np.random.default_rng(0)
  positive, negative = rng.normal(0.3, 1, 300).round(1), rng.normal(0, 1, 200).round(1)
  labels = np.r_[np.ones(300), np.zeros(200)]
  want = sklearn_metrics.roc_auc_score(labels, np.r_[positive, negative])
  assert auc(positive, negative) == pytest.approx(want, abs=1e-12)


def test_auc_by_hand():
  assert auc(np.array([2.0, 3.0]), np.array([1.0])) == 1.0
  assert auc(np.array([1.0]), np.array([2.0, 3.0])) == 0.0
  assert auc(np.array([1.0, 3.0]), np.array([2.0, 3.0])) == (0 + 0 + 1 + 0.5) / 4
  assert auc(np.ones(5), np.ones(7)) == 0.5


def test_auc_does_not_round_at_float32():
  # 4,000² pairs: in float32 the rank sum has steps of 1.
  positive, negative = np.arange(4000) + 0.5, np.arange(4000).astype(float)
  assert auc(positive, negative) == (4000 * 4001 / 2) / 4000**2
  assert auc(np.array([1 + 1e-12]), np.array([1.0])) == 1.0


@pytest.mark.parametrize("bad", [np.zeros(0), np.array([1.0, np.nan]), np.zeros((2, 2))])
def test_auc_rejects(bad):
  with pytest.raises(ValueError, match="positive_scores"):
    auc(bad, np.ones(3))
  with pytest.raises(ValueError, match="negative_scores"):
    auc(np.ones(3), bad)


def test_probe_is_all_forgotten_pairs_and_as_many_retained():
  retain, forget = halves()
  probe = completeness_probe(np.random.default_rng(1), retain, forget)
  assert probe.forget is forget
  assert len(probe.retain) == len(forget)
  assert len(np.unique(probe.retain.keys())) == len(forget)
  assert retain.contains(probe.retain).all()
  assert (np.diff(probe.retain.keys()) > 0).all()
  again = completeness_probe(np.random.default_rng(1), retain, forget)
  assert again.retain.digest() == probe.retain.digest()
  assert completeness_probe(np.random.default_rng(2), retain, forget).retain.digest() != probe.retain.digest()


def test_probe_is_uniform():
  retain, forget = halves(every=10)
  rng, drawn = np.random.default_rng(0), np.zeros(len(retain))
  for _ in range(2000):
    drawn += retain.contains(retain) & completeness_probe(rng, retain, forget).retain.contains(retain)
  expected = 2000 * len(forget) / len(retain)
  assert np.abs(drawn - expected).max() < 5 * np.sqrt(expected)


def test_probe_takes_all_retained_where_they_are_fewer():
  forget, retain = halves()
  assert completeness_probe(np.random.default_rng(0), retain, forget).retain is retain


def test_probe_rejects_a_pair_on_both_sides():
  retain, forget = halves()
  with pytest.raises(ValueError, match="1 in both"):
    completeness_probe(np.random.default_rng(0), retain.union(forget.select(np.array([0]))), forget)


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 1000])
def test_pair_scores_in_chunks(chunk_size):
  rng, data = np.random.default_rng(0), random_pairs(0)
  user, item = rng.normal(size=(20, 4)).astype(np.float32), rng.normal(size=(30, 4)).astype(np.float32)
  got = pair_scores(scorer_of(user, item), data, chunk_size=chunk_size)
  np.testing.assert_allclose(got, (user[data.user] * item[data.item]).sum(1), rtol=1e-5, atol=1e-6)


def test_completeness_of_a_hand_made_scorer():
  # One user, item vectors are the scores. Raw scores of 40 and 30 differ, their float32 sigmoids do not.
  item = np.array([[40.0], [30.0], [20.0], [25.0]])
  pairs = Interactions.from_pairs([0, 0, 0, 0], [0, 1, 2, 3], num_users=1, num_items=4)
  forget = pairs.select(np.array([1, 2]))
  probe = completeness_probe(np.random.default_rng(0), pairs.without(forget), forget)
  assert completeness_auc(scorer_of([[1.0]], item), probe) == 3 / 4
  assert completeness_auc(scorer_of([[-1.0]], item), probe) == 1 / 4
  assert completeness_auc(scorer_of([[0.0]], item), probe) == 1 / 2


def test_completeness_equals_the_double_loop_and_traces_once():
  traces = []

  def score(params, user_vectors, item_vectors):
    traces.append(1)
    return jnp.tanh(user_vectors - item_vectors).sum(-1)

  retain, forget = halves()
  probe = completeness_probe(np.random.default_rng(0), retain, forget)
  for seed in range(3):
    rng = np.random.default_rng(seed)
    user, item = rng.normal(size=(20, 4)).astype(np.float32), rng.normal(size=(30, 4)).astype(np.float32)
    naive = [np.tanh(user[p.user] - item[p.item]).sum(-1).tolist() for p in probe]
    got = completeness_auc(scorer_of(user, item, score, inner_product=False), probe)
    assert got == pytest.approx(oracles.naive_auc(*naive), abs=1e-3)
  assert len(traces) == 1


def test_completeness_rejects():
  retain, forget = halves()
  probe = completeness_probe(np.random.default_rng(0), retain, forget)
  scorer = scorer_of(np.ones((20, 2)), np.ones((30, 2)))
  nothing = forget.select(np.zeros(len(forget), bool))
  with pytest.raises(ValueError, match="n > 0"):
    completeness_auc(scorer, completeness_probe(np.random.default_rng(0), retain, nothing))
  with pytest.raises(ValueError, match="NaN"):
    completeness_auc(jax.tree.map(lambda x: x * jnp.nan, scorer), probe)
  with pytest.raises(ValueError, match="axes|users"):
    completeness_auc(scorer_of(np.ones((19, 2)), np.ones((30, 2))), probe)
  with pytest.raises(ValueError, match="chunk_size=0"):
    pair_scores(scorer, retain, chunk_size=0)


def test_pair_chunk_bounds_memory():
  assert completeness.PAIR_CHUNK * 64 * 4 <= 1 << 24
