"""`calibrate`: the setting is found that forgets as retraining does, and what it is asked with is checked."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import (
  BPRMFConfig,
  Embeddings,
  Interactions,
  Scorer,
  SyntheticConfig,
  TrainConfig,
  Unlearner,
  UnlearnResult,
  bprmf,
  calibrate,
  fit,
  generate,
  hold_out,
  retrain,
)
from jaxunlearn.base import inner_product_score
from jaxunlearn.metrics.completeness import auc
from jaxunlearn.metrics.membership import standardised_scores
from jaxunlearn.unlearn.retrain import ModelState, model_scorer

USERS, ITEMS, MEMBERSHIP = 60, 200, 1.5


def serve(scores):
  """A scorer of any table of scores [U, I]."""
  vectors = Embeddings(jnp.asarray(scores, jnp.float32), jnp.eye(ITEMS, dtype=jnp.float32))
  return Scorer(params=None, vectors=vectors, score=inner_product_score, inner_product=True)


def lowering(by, seen=None):
  """Takes `by` off the score of a forgotten pair, of which training had added `MEMBERSHIP`."""

  def unlearn(key, state, request):
    if seen is not None:
      seen.append((by, request.digest()))
    return UnlearnResult(state.at[request.user, request.item].add(-by), {})

  return Unlearner(None, unlearn, serve, "approximate", f"lowering by {by}")


@pytest.fixture(scope="module")
def known():
  """Scores of a model whose training is known: noise, and `MEMBERSHIP` more for a pair that was trained on."""
  rng = np.random.default_rng(0)
  flat = rng.choice(USERS * ITEMS, 4000, replace=False)
  liked = Interactions.from_pairs(flat // ITEMS, flat % ITEMS, num_users=USERS, num_items=ITEMS)
  train, held_out = hold_out(rng, liked, 0.4)
  scores = rng.normal(size=(USERS, ITEMS))
  scores[train.user, train.item] += MEMBERSHIP
  return jnp.asarray(scores, jnp.float32), train, held_out


def test_the_setting_that_forgets_as_retraining_does(known):
  scores, train, held_out = known
  levels, seen = [0.0, 0.8, MEMBERSHIP, 2.2, 3.0], []
  found = calibrate(
    jax.random.key(0), [lowering(by, seen) for by in levels], scores, train, held_out, ratio=0.2, num_trials=3
  )
  assert levels[found.best] == MEMBERSHIP and found.bracketed
  assert found.auc.shape == (5, 3) and (np.diff(found.auc.mean(axis=1)) < -0.05).all()
  assert abs(found.auc[2].mean() - 0.5) < 3 * found.standard_error
  np.testing.assert_array_equal(found.before, found.auc[0])  # a candidate that does nothing
  requests = [digest for _, digest in seen]
  assert len(set(requests)) == 3 and requests[:3] * 5 == requests  # the same trial requests for all of them
  assert len({by for by, _ in seen}) == 5
  size = round(0.2 * len(train))
  assert found.standard_error == pytest.approx((1 / (12 * 3 * size) + 1 / (12 * len(held_out))) ** 0.5)


def test_a_trial_is_the_auc_of_forgotten_against_held_out_pairs(known):
  scores, train, held_out = known
  requests = []

  def unlearn(key, state, request):
    requests.append(request)
    return UnlearnResult(state, {})

  found = calibrate(
    jax.random.key(1), [Unlearner(None, unlearn, serve, "approximate", "nothing")], scores, train, held_out,
    ratio=0.1, num_trials=1,
  )  # fmt: skip
  (request,) = requests
  assert train.contains(request).all()
  retained = train.without(request)
  sides = []
  for pairs in (request, held_out):
    z = standardised_scores(serve(scores), pairs)
    a = [math.log(1 + int((retained.user == user).sum())) for user in pairs.user]
    b = [math.log(1 + int((retained.item == item).sum())) for item in pairs.item]
    sides.append((z, np.array([[1, x, y, x * x, x * y, y * y] for x, y in zip(a, b, strict=True)])))
  (z, terms), (z_out, terms_out) = sides
  weights = np.linalg.solve(terms_out.T @ terms_out, terms_out.T @ z_out)  # normal equations, not centred
  assert (
    found.auc[0, 0] == found.before[0] == pytest.approx(auc(z - terms @ weights, z_out - terms_out @ weights), abs=1e-4)
  )
  assert found.auc[0, 0] > 0.7 and found.best == 0 and not found.bracketed


def test_popularity_does_not_drown_what_was_trained_on():
  """Members raise a score by little against what popular items raise it by: scores as they are hardly show it."""
  rng = np.random.default_rng(2)
  popularity = 1.0 / np.arange(1, ITEMS + 1) ** 0.7
  item = rng.choice(ITEMS, 6000, p=popularity / popularity.sum())
  liked = Interactions.from_pairs(rng.integers(0, USERS, 6000), item, num_users=USERS, num_items=ITEMS)
  train, held_out = hold_out(rng, liked, 0.4)
  scores = 0.3 * rng.normal(size=(USERS, ITEMS)) + 3 * np.log1p(liked.item_degrees())
  scores[train.user, train.item] += 0.5
  found = calibrate(jax.random.key(0), [lowering(0.5)], jnp.asarray(scores), train, held_out, ratio=0.2)
  sides = [standardised_scores(serve(scores), pairs) for pairs in (train, held_out)]
  assert auc(*sides) < 0.6 and found.before.mean() > 0.7
  assert abs(found.auc.mean() - 0.5) < 3 * found.standard_error


def test_standard_error_is_the_spread_of_what_is_at_chance():
  """Over many draws of scores without membership, the mean over trials spreads as it says."""
  rng = np.random.default_rng(5)
  flat = rng.choice(USERS * ITEMS, 3000, replace=False)
  liked = Interactions.from_pairs(flat // ITEMS, flat % ITEMS, num_users=USERS, num_items=ITEMS)
  train, held_out = hold_out(rng, liked, 0.2)
  means, errors = [], []
  for draw in range(100):
    scores = jnp.asarray(np.random.default_rng([7, draw]).normal(size=(USERS, ITEMS)), jnp.float32)
    found = calibrate(jax.random.key(draw), [lowering(0.0)], scores, train, held_out, ratio=0.1)
    means.append(found.auc.mean())
    errors.append(found.standard_error)
  assert abs(np.mean(means) - 0.5) < 0.005
  assert 0.8 < np.std(means) / errors[0] < 1.2


def test_stop_leaves_out_what_is_stronger(known):
  scores, train, held_out = known
  seen = []
  candidates = [lowering(by, seen) for by in (0.5, 2.2, 3.0)]
  found = calibrate(jax.random.key(0), candidates, scores, train, held_out, ratio=0.2, num_trials=2, stop=True)
  assert {by for by, _ in seen} == {0.5, 2.2} and np.isnan(found.auc[2]).all()
  assert found.best in (0, 1) and found.bracketed


def test_a_trained_model_and_exact_retraining():
  data = generate(SyntheticConfig(num_users=120, num_items=80, num_pairs=3000, num_clusters=3)).dataset.train
  train, held_out = hold_out(np.random.default_rng(0), data, 0.3)
  config = TrainConfig(num_epochs=30, batch_size=256, learning_rate=0.02)
  model = bprmf(BPRMFConfig(embedding_dim=8, l2=1e-3))
  state = ModelState(fit(jax.random.key(0), model, train, config, progress=False).params, train)
  exact = retrain(model, config, progress=False)
  nothing = Unlearner(
    None, lambda key, state, request: UnlearnResult(state, {}), lambda state: model_scorer(model, state),
    "approximate", "nothing",
  )  # fmt: skip
  found = calibrate(jax.random.key(0), [nothing, exact], state, train, held_out, ratio=0.15, num_trials=2)
  assert found.best == 1 and found.before.mean() > 0.5 + 4 * found.standard_error
  assert abs(found.auc[1].mean() - 0.5) < 3 * found.standard_error


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"candidates": []}, "candidates"),
    ({"ratio": 1.0}, "ratio"),
    ({"num_trials": 0}, "num_trials"),
    ({"held_out": "train"}, "of 2400 that are in `interactions`"),
    ({"held_out": "none"}, "at least 30 held_out pairs, .* got none"),
  ],
)
def test_wrong_questions(known, changes, words):
  scores, train, held_out = known
  given = {"candidates": [lowering(1.0)], "held_out": held_out, "ratio": 0.1, "num_trials": 1, **changes}
  parts = {"train": train, "none": train.select(np.zeros(len(train), bool))}
  held = given.pop("held_out")
  held = parts[held] if isinstance(held, str) else held
  with pytest.raises(ValueError, match=words):
    calibrate(jax.random.key(0), given.pop("candidates"), scores, train, held, **given)
