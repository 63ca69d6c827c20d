import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import models
from jaxunlearn.base import Batch
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.requests import Request
from jaxunlearn.sampling import sample_negatives
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn import gradient_ascent as module
from jaxunlearn.unlearn.gradient_ascent import GradientAscentConfig, unlearn
from jaxunlearn.unlearn.gradient_ascent import gradient_ascent as factory
from tests.small import random_pairs

MODELS = {
  "bprmf": models.bprmf(models.BPRMFConfig(embedding_dim=4, init_scale=0.5)),
  "wmf": models.wmf(models.WMFConfig(embedding_dim=4, init_scale=0.5, l2=0.1)),
  "lightgcn": models.lightgcn(models.LightGCNConfig(embedding_dim=4, num_layers=2, init_scale=0.5)),
  "neumf": models.neumf(models.NeuMFConfig(embedding_dim=4, hidden=(8, 4), init_scale=0.5)),
}


def setup(model, count=9):
  data = random_pairs()
  forget = data.select(np.sort(np.random.default_rng(0).choice(len(data), count, replace=False)))
  return data, forget, model.init(jax.random.key(0), data.num_users, data.num_items)


def scores_of_pairs(model, params, data, pairs):
  vectors = model.encode(params, model.context(data))
  return np.asarray(model.score(params, vectors.user[pairs.user], vectors.item[pairs.item]))


@pytest.mark.parametrize("name", list(MODELS))
def test_the_forgotten_pairs_lose_score_and_their_loss_rises(name):
  model = MODELS[name]
  data, forget, params = setup(model)
  result = unlearn(
    jax.random.key(1), model, params, data, forget, GradientAscentConfig(num_steps=20, learning_rate=0.02)
  )
  retained = data.without(forget)
  before, after = (scores_of_pairs(model, p, retained, forget) for p in (params, result.state.params))
  if name != "neumf":  # its tower is shared by all pairs: climbing the negatives' loss lifts every score
    assert np.mean(after - before) < -0.005
  assert result.info["loss_last"] > result.info["loss_first"]
  assert len(result.state.interactions) == len(retained)


def test_one_step_is_the_clipped_gradient_of_a_sum_over_the_forgotten_pairs():
  model = MODELS["bprmf"]
  data, forget, params = setup(model)
  key, clip, rate = jax.random.key(1), 0.3, 0.1
  config = GradientAscentConfig(num_steps=1, learning_rate=rate, clip=clip, num_negatives=2)
  got = unlearn(key, model, params, data, forget, config).state.params
  padded = forget.padded(256)
  drawn = np.asarray(sample_negatives(jax.random.fold_in(key, 0), data.padded(), padded.user, 2))[: len(forget)]
  expected = {name: np.zeros_like(leaf, np.float64) for name, leaf in params.items()}
  user, item = (np.asarray(params[name], np.float64) for name in ("user", "item"))
  for at, (u, i) in enumerate(zip(forget.user, forget.item, strict=True)):
    for j in drawn[at]:
      assert not np.any((data.user == u) & (data.item == j))  # never one that the user had, forgotten or not
      slope = 0.5 / (1 + np.exp(user[u] @ item[i] - user[u] @ item[j]))
      expected["user"][u] += slope * (item[j] - item[i]) + 0.5 * 1e-2 * user[u]
      expected["item"][i] += -slope * user[u] + 0.5 * 1e-2 * item[i]
      expected["item"][j] += slope * user[u] + 0.5 * 1e-2 * item[j]
  clipped = 0
  for name, grad in expected.items():
    norm = np.linalg.norm(grad, axis=1, keepdims=True)
    clipped += np.sum(norm > clip)
    moved = rate * grad * np.minimum(1, clip / np.maximum(norm, 1e-30))
    np.testing.assert_allclose(np.asarray(got[name]) - np.asarray(params[name]), moved, rtol=1e-3, atol=1e-6)
    assert np.array_equal(np.asarray(got[name])[norm[:, 0] == 0], np.asarray(params[name])[norm[:, 0] == 0])
  assert 0 < clipped


def test_wmf_climbs_what_the_pairs_add_and_leaves_the_unobserved_entries_alone():
  model = MODELS["wmf"]
  data, forget, params = setup(model)
  config = GradientAscentConfig(num_steps=1, learning_rate=0.1, clip=1e9)
  got = unlearn(jax.random.key(1), model, params, data, forget, config).state.params
  user, item = (np.asarray(params[name], np.float64) for name in ("user", "item"))
  expected = np.zeros_like(user)
  for u, i in zip(forget.user, forget.item, strict=True):
    expected[u] += (2 * 0.8 * (user[u] @ item[i]) - 2) * item[i] + 0.1 * user[u]
  np.testing.assert_allclose(np.asarray(got["user"]) - user, 0.1 * expected, rtol=1e-3, atol=1e-5)


def test_lightgcn_is_differentiated_over_the_retained_graph():
  model = MODELS["lightgcn"]
  data, forget, params = setup(model)
  key, config = jax.random.key(1), GradientAscentConfig(num_steps=1, learning_rate=0.1, clip=1e9)
  got = unlearn(key, model, params, data, forget, config).state.params
  padded = forget.padded(256)
  negative = sample_negatives(jax.random.fold_in(key, 0), data.padded(), padded.user, 1)
  weight = (jnp.arange(256) < len(forget)).astype(jnp.float32)
  batch = Batch(padded.user, padded.item, negative, weight)

  def moved(graph):
    return np.asarray(0.1 * len(forget) * jax.jit(jax.grad(model.loss))(params, model.context(graph), batch)["user"])

  step = np.asarray(got["user"] - params["user"])
  np.testing.assert_allclose(step, moved(data.without(forget)), rtol=1e-3, atol=1e-6)
  assert not np.allclose(step, moved(data), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["bprmf", "wmf"])
def test_a_second_request_does_not_trace_again_and_the_empty_one_is_the_identity(name):
  data, _, _ = setup(MODELS[name])
  unlearner = factory(MODELS[name], TrainConfig(num_epochs=1, batch_size=64))
  state = unlearner.fit(jax.random.key(0), data)
  assert unlearner.unlearn(jax.random.key(1), state, Request()).state is state
  first = data.select(np.arange(0, 40, 4))
  state = unlearner.unlearn(jax.random.key(1), state, first).state
  traced = module.ascend._cache_size()
  state = unlearner.unlearn(jax.random.key(2), state, state.interactions.select(np.arange(3))).state
  assert module.ascend._cache_size() == traced > 0
  assert not state.interactions.contains(first).any()
  assert unlearner.guarantee == "approximate" and unlearner.name == "gradient_ascent"


def test_bad_input_is_refused():
  model = MODELS["bprmf"]
  data, forget, params = setup(model)
  broken = {**params, "user": params["user"].at[3, 2].set(jnp.nan)}
  with pytest.raises(ValueError, match=r"finite values in params\['user'\], got 1 NaN"):
    unlearn(jax.random.key(0), model, broken, data, forget)
  with pytest.raises(ValueError, match="lower learning_rate"):
    unlearn(jax.random.key(0), model, params, data, forget, GradientAscentConfig(learning_rate=1e38, clip=1e38))
  with pytest.raises(ValueError, match="has no loss"):
    popularity = models.popularity()
    unlearn(jax.random.key(0), popularity, popularity.init(jax.random.key(0), 40, 30), data, forget)
  with pytest.raises(ValueError, match="among the interactions"):
    unlearn(jax.random.key(0), model, params, data.without(forget), forget)
  for change in ({"num_steps": 0}, {"learning_rate": 0.0}, {"clip": -1.0}, {"num_negatives": 0}):
    with pytest.raises(ValueError, match=next(iter(change))):
      GradientAscentConfig(**change)


def test_users_with_every_item_have_no_negative_to_climb_with():
  others = random_pairs(0, num_users=12, num_items=15, num_pairs=60)
  user, item = np.concatenate([others.user, np.zeros(15, int)]), np.concatenate([others.item, np.arange(15)])
  data = Interactions.from_pairs(user, item, num_users=12, num_items=15)
  model = MODELS["bprmf"]
  params = model.init(jax.random.key(0), 12, 15)
  full = (data.user == 0) & (data.item == 3)
  with pytest.raises(ValueError, match="got 1 of users with every item, who have no negative .* use retrain"):
    unlearn(jax.random.key(1), model, params, data, data.select(full))
  both = data.select(full | (np.arange(len(data)) == len(data) - 1))
  alone = data.select(np.arange(len(data)) == len(data) - 1)
  moved = unlearn(jax.random.key(1), model, params, data, both).state.params
  assert np.array_equal(moved["user"][0], params["user"][0]) and np.array_equal(moved["item"][3], params["item"][3])
  assert unlearn(jax.random.key(1), model, params, data, alone).info["loss_last"] > 0
