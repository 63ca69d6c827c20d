"""Synthetic data: exact sizes, reproducible to the bit, and really drawn from what was planted."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from jaxunlearn.data import SyntheticConfig, generate
from jaxunlearn.data import synthetic as module


@pytest.fixture(scope="module")
def default():
  return generate(SyntheticConfig())


def test_sizes_are_exact_and_parts_disjoint(default):
  data = default.dataset
  assert len(data.train) + len(data.test) == len(data.all_pairs()) == 75_000
  counts = data.train.user_degrees() + data.test.user_degrees()
  np.testing.assert_array_equal(data.test.user_degrees(), counts // 5)
  assert counts.min() >= 4
  for part in data.parts().values():  # built without sorting, so check that they are as from_pairs would have them
    assert (np.diff(part.keys()) > 0).all()


def test_same_seed_same_bits(default):
  assert generate(SyntheticConfig()).dataset.digest == default.dataset.digest
  assert generate(SyntheticConfig(seed=1)).dataset.digest != default.dataset.digest


def test_oracle_embeddings_hold_the_probabilities(default):
  user, item = default.oracle_embeddings()
  probabilities = default.probabilities(np.arange(50))
  np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
  np.testing.assert_allclose(user[:50] @ item.T, probabilities, rtol=1e-5)


def test_oracle_ranks_better_than_popularity_and_chance(default):
  data, users = default.dataset, np.arange(default.config.num_users)
  seen, truth = data.train.to_csr().toarray() > 0, data.test.to_csr().toarray() > 0

  def hits(scores):
    top = np.argsort(np.where(seen, -np.inf, scores), axis=1)[:, -20:]
    return np.take_along_axis(truth, top, axis=1).sum() / truth.sum()

  oracle = hits(default.probabilities(users))
  popularity = hits(np.broadcast_to(data.train.item_degrees().astype(float), seen.shape))
  chance = hits(np.random.default_rng(0).random(seen.shape))
  assert oracle > 1.6 * popularity > 1.6 * 2 * chance


def test_draws_follow_the_planted_distribution():
  """First draws of one user per cluster against P, by a chi-squared test at one in a thousand."""
  config = SyntheticConfig(num_users=9, num_items=12, num_pairs=36, num_clusters=3, affinity=0.5)
  data = generate(config)
  sampler = module._Sampler(config, data.user_cluster, data.item_cluster, data.item_weight)
  rng = np.random.default_rng(0)
  for user in range(3):
    place = sampler.draw(rng, np.full(20_000, user))
    observed = np.bincount(sampler.by_cluster[place], minlength=12)
    expected = 20_000 * data.probabilities(np.array([user]))[0]
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3


def test_rounds_and_the_dense_finish_draw_alike(monkeypatch):
  """Which items come up does not depend on when the loop gives way to exponential races."""
  config = SyntheticConfig(num_users=4000, num_items=12, num_pairs=4000 * 6, num_clusters=2, activity_exponent=0.0)
  degrees = []
  for rounds in (0, 1, 60):
    monkeypatch.setattr(module, "_MAX_ROUNDS", rounds)
    data = generate(config)
    assert len(data.dataset.all_pairs()) == config.num_pairs
    degrees.append(data.dataset.all_pairs().item_degrees())
  for other in degrees[1:]:
    assert scipy.stats.chi2_contingency([degrees[0], other]).pvalue > 1e-3


def test_blocks_cut_by_users_only(monkeypatch):
  monkeypatch.setattr(module, "_BLOCK_PAIRS", 500)
  data = generate(SyntheticConfig(num_users=200, num_items=100, num_pairs=4000))
  assert len(data.dataset.all_pairs()) == 4000
  assert (np.diff(data.dataset.train.keys()) > 0).all()


@pytest.mark.parametrize("exponent", [0.0, 1.2])
def test_popularity_follows_its_exponent(exponent):
  config = SyntheticConfig(num_items=500, num_pairs=30_000, affinity=0.0, popularity_exponent=exponent)
  data = generate(config)
  degrees = data.dataset.all_pairs().item_degrees()
  top = np.sort(degrees)[-50:].sum() / config.num_pairs
  assert (top > 0.4) if exponent else (0.1 < top < 0.14)
  if exponent:
    assert np.corrcoef(degrees, data.item_weight)[0, 1] > 0.75


@pytest.mark.parametrize("affinity", [0.0, 1.0])
def test_affinity_decides_how_much_comes_from_the_own_cluster(affinity):
  data = generate(SyntheticConfig(affinity=affinity))
  pairs = data.dataset.all_pairs()
  own = (data.user_cluster[pairs.user] == data.item_cluster[pairs.item]).mean()
  assert own == 1 if affinity else abs(own - 1 / 8) < 0.03


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"num_users": 0}, "num_users=0 > 0"),
    ({"num_clusters": 2000}, "num_clusters=2000 <= num_items=1000"),
    ({"num_pairs": 5000}, r"num_pairs=5000 in \[6000, 750000\]"),
    ({"num_pairs": 800_000}, "num_pairs=800000 in"),
    ({"affinity": 1.0, "num_pairs": 100_000}, "4 to 62 a user"),
    ({"affinity": 1.1}, r"affinity=1.1 in \[0, 1\]"),
    ({"test_fraction": 1.0}, "test_fraction=1.0 in"),
    ({"popularity_exponent": -1.0}, "popularity_exponent=-1.0 >= 0"),
  ],
)
def test_config_is_checked(change, message):
  with pytest.raises(ValueError, match=message):
    SyntheticConfig(**change)
