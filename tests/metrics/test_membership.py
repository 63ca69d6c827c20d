"""Membership audits against scikit-learn, SciPy and loops; and on a game whose answer is known."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve

from jaxunlearn.base import Embeddings, Scorer, inner_product_score
from jaxunlearn.data import Interactions
from jaxunlearn.metrics import _bootstrap, membership


def scores(seed=0, ties=False):
  rng = np.random.default_rng(seed)
  inside, outside = rng.normal(0.5, 1, 70), rng.normal(0, 1, 90)
  return (np.round(inside), np.round(outside)) if ties else (inside, outside)


@pytest.mark.parametrize("ties", [False, True])
def test_the_curve_is_scikit_learns(ties):
  inside, outside = scores(ties=ties)
  labels = np.repeat([1, 0], [70, 90])
  false, found, _ = roc_curve(labels, np.concatenate([inside, outside]), drop_intermediate=False)
  for got, want in zip(membership.roc(inside, outside), (false, found), strict=True):
    np.testing.assert_allclose(got, want, atol=1e-12)
  got = membership.attack_result(inside, outside, num_bootstrap=50)
  assert got.auc == pytest.approx(roc_auc_score(labels, np.concatenate([inside, outside])))
  assert (got.num_members, got.num_non_members) == (70, 90)


def test_equal_infinities_are_one_step():
  assert membership.tpr_at(np.array([np.inf]), np.array([np.inf]), 0.01) == 0
  false, found = membership.roc(np.array([np.inf, 0.0]), np.array([np.inf, -np.inf, -np.inf]))
  np.testing.assert_allclose([false, found], [[0, 1 / 3, 1 / 3, 1], [0, 0.5, 1, 1]])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("fpr", [0.0, 0.001, 0.1, 1 / 90, 1.0])
def test_the_rate_at_few_false_alarms_is_that_of_the_best_threshold(ties, fpr):
  inside, outside = scores(ties=ties)
  thresholds = [*inside, *outside, np.inf]
  best = max(np.mean(inside >= t) for t in thresholds if np.mean(outside >= t) <= fpr + 1e-12)
  assert membership.tpr_at(inside, outside, fpr) == pytest.approx(best)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("num_bootstrap", [1, 40])
def test_resamples_are_those_of_a_loop(ties, num_bootstrap, monkeypatch):
  inside, outside = scores(ties=ties)
  fprs = (0.0, 0.001, 0.1, 1.0)
  rng, drawn = np.random.default_rng(3), []
  for _ in range(num_bootstrap):
    one = rng.choice(inside, 70), rng.choice(outside, 90)
    drawn.append([membership.auc(*one), *(membership.tpr_at(*one, fpr) for fpr in fprs)])
  monkeypatch.setattr(_bootstrap, "CHUNK", 1500)  # some resamples at a time, the last time fewer
  got = _bootstrap.resampled_attack(np.random.default_rng(3), inside, outside, np.asarray(fprs), num_bootstrap)
  np.testing.assert_allclose(got, drawn, rtol=1e-12)
  low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
  result = membership.attack_result(inside, outside, fprs=fprs, num_bootstrap=num_bootstrap, seed=3)
  np.testing.assert_allclose(result.auc_interval, (low[0], high[0]), rtol=1e-12)
  np.testing.assert_allclose(list(result.tpr_interval.values()), np.stack([low, high], axis=1)[1:], rtol=1e-12)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
  truth = scipy.stats.norm.cdf(0.5 / np.sqrt(2))  # of N(0.5, 1) against N(0, 1)
  held = []
  for seed in range(40):
    found = membership.attack_result(*scores(seed), num_bootstrap=100, level=0.9)
    low, high = found.auc_interval
    held.append(low <= truth <= high)
    assert low <= found.auc <= high
  assert 0.75 < np.mean(held) <= 1.0


def test_bad_scores_are_refused():
  for bad in (np.zeros(0), np.asarray([np.nan]), np.zeros((2, 2))):
    with pytest.raises(ValueError, match="members"):
      membership.roc(bad, np.ones(3))
    with pytest.raises(ValueError, match="non_members"):
      membership.roc(np.ones(3), bad)
  with pytest.raises(ValueError, match="fpr=2"):
    membership.tpr_at(np.ones(3), np.ones(3), 2)
  with pytest.raises(ValueError, match="level=1"):
    membership.attack_result(np.ones(3), np.ones(3), level=1)


def test_standardised_scores_are_z_scores_of_the_users_row():
  rng = np.random.default_rng(0)
  user, item = rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=(11, 3)).astype(np.float32)
  user[2], user[3] = 0, (0, 0, 0.1)  # all scores equal; of 3 they are 0.1, whose float32 mean is another number
  item[:, 2] = 1
  scorer = Scorer(None, Embeddings(jnp.asarray(user), jnp.asarray(item)), inner_product_score, True)
  pairs = Interactions.from_pairs([0, 0, 2, 3, 5, 6], [1, 3, 2, 4, 10, 0], num_users=7, num_items=11)
  want = []
  for u, i in zip(pairs.user, pairs.item, strict=True):
    row = [float(user[u] @ v) for v in item]
    want.append(0.0 if len(set(row)) == 1 else (row[i] - np.mean(row)) / np.std(row))
  for chunk in (None, 1, 3):
    np.testing.assert_allclose(membership.standardised_scores(scorer, pairs, chunk_size=chunk), want, atol=1e-5)
  assert membership.standardised_scores(scorer, pairs.select(np.zeros(6, bool))).shape == (0,)
  bad = Scorer(None, Embeddings(jnp.full((7, 3), jnp.nan), jnp.asarray(item)), inner_product_score, True)
  with pytest.raises(ValueError, match="finite"):
    membership.standardised_scores(bad, pairs)


def shadows(num=40, pairs=12, seed=0):
  rng = np.random.default_rng(seed)
  included = membership.shadow_halves(rng, num, pairs)
  return rng.normal(size=(num, pairs)) * np.linspace(0.5, 2, pairs) + included * np.linspace(0, 3, pairs), included


@pytest.mark.parametrize("per_pair", [True, False])
def test_the_likelihood_ratio_is_that_of_two_normals(per_pair):
  shadow, included = shadows()
  observed = np.linspace(-1, 4, 12)
  got = membership.likelihood_ratio(observed, shadow, included, per_pair_variance=per_pair)
  sides = {}
  for name, mask in (("in", included), ("out", ~included)):
    columns = [shadow[mask[:, p], p] for p in range(12)]
    variances = [np.var(column, ddof=1) for column in columns]
    if not per_pair:
      variances = [np.mean(variances)] * 12
    sides[name] = [(np.mean(c), np.sqrt(v)) for c, v in zip(columns, variances, strict=True)]
  for p in range(12):
    want = scipy.stats.norm.logpdf(observed[p], *sides["in"][p]) - scipy.stats.norm.logpdf(
      observed[p], *sides["out"][p]
    )
    assert got[p] == pytest.approx(want, rel=1e-6)
  few = membership.likelihood_ratio(observed, shadow, included)
  np.testing.assert_array_equal(few, membership.likelihood_ratio(observed, shadow, included, per_pair_variance=False))


def test_memorisation_is_the_difference_of_means():
  shadow, included = shadows()
  want = [shadow[included[:, p], p].mean() - shadow[~included[:, p], p].mean() for p in range(12)]
  np.testing.assert_allclose(membership.memorisation(shadow, included), want)


def test_halves_are_balanced_and_random():
  drawn = membership.shadow_halves(np.random.default_rng(0), 8, 300)
  np.testing.assert_array_equal(drawn.sum(axis=0), 4)
  together = np.mean(drawn[0] & drawn[1])
  assert 0.12 < together < 0.31  # 4·3 / (8·7) = 0.21, not 0 or ½
  for bad in (2, 5):
    with pytest.raises(ValueError, match=f"num_shadows={bad}"):
      membership.shadow_halves(np.random.default_rng(0), bad, 3)


def test_shadows_that_do_not_fit_are_refused():
  shadow, included = shadows()
  with pytest.raises(ValueError, match="observed"):
    membership.likelihood_ratio(np.zeros(3), shadow, included)
  with pytest.raises(ValueError, match="one shape"):
    membership.memorisation(shadow, included[:, :3])
  included[:, 4] = True
  with pytest.raises(ValueError, match="train more"):
    membership.likelihood_ratio(np.zeros(12), shadow, included)


def test_the_trained_attack_is_scikit_learns_logistic_regression():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(200, 3)) * [1, 10, 0.1] + [0, 5, 0]
  labels = rng.random(200) < 1 / (1 + np.exp(-features[:, 0] - 0.2 * features[:, 1] + 1))
  attacked = rng.normal(size=(9, 3))
  got = membership.trained_attack(features, labels, attacked, ridge=0.01)
  mean, spread = features.mean(axis=0), features.std(axis=0)
  other = LogisticRegression(C=1 / (0.01 * 200), tol=1e-10, max_iter=1000).fit((features - mean) / spread, labels)
  np.testing.assert_allclose(got, other.decision_function((attacked - mean) / spread), rtol=1e-4, atol=1e-5)
  with pytest.raises(ValueError, match="members and non-members"):
    membership.trained_attack(features, np.ones(200, bool), attacked)
  with pytest.raises(ValueError, match="finite"):
    membership.trained_attack(features, labels, np.full((1, 3), np.inf))
  with pytest.raises(ValueError, match=r"\[P, F\]"):
    membership.trained_attack(features, labels, attacked[:, :2])


def test_a_game_whose_answer_is_known():
  """Scores of members are higher by what the pair's training adds, hidden in pairs' own levels: LiRA sees it."""
  rng = np.random.default_rng(1)
  pairs, num = 600, 32
  level, effect, noise = rng.normal(0, 2, pairs), 1.0, 0.5
  included = membership.shadow_halves(rng, num, pairs)
  shadow = level + effect * included + noise * rng.normal(size=(num, pairs))
  member = np.arange(pairs) < pairs // 2

  def audited(was_trained):
    return level + effect * was_trained + noise * rng.normal(size=pairs)

  for was_trained, low, high in ((member, 0.9, 0.95), (np.zeros(pairs), 0.44, 0.56)):
    observed = audited(was_trained)
    ratio = membership.likelihood_ratio(observed, shadow, included)
    found = membership.attack_result(ratio[member], ratio[~member], num_bootstrap=100)
    assert low < found.auc < high  # Φ(effect / (noise √2)) = 0.921 at best
    blind = membership.attack_result(observed[member], observed[~member], num_bootstrap=10)
    assert abs(blind.auc - 0.5) < 0.2


def test_labels_and_scores_that_are_none_are_refused():
  rng = np.random.default_rng(0)
  with pytest.raises(ValueError, match="labels as booleans, or 0 and 1"):
    membership.trained_attack(rng.normal(size=(6, 2)), np.array([1, -1, 1, -1, 1, 1]), rng.normal(size=(2, 2)))
  shadow, included = rng.normal(size=(8, 5)), membership.shadow_halves(rng, 8, 5)
  with pytest.raises(ValueError, match="included as booleans"):
    membership.memorisation(shadow, included * 0.3)
  with pytest.raises(ValueError, match="finite observed scores, got 1"):
    membership.likelihood_ratio(np.array([0, 0, np.nan, 0, 0]), shadow, included)
  shadow[3, 2] = np.nan
  for attack in (lambda: membership.likelihood_ratio(np.zeros(5), shadow, included),
                 lambda: membership.memorisation(shadow, included)):  # fmt: skip
    with pytest.raises(ValueError, match="finite shadow scores, got 1 others of 40"):
      attack()
