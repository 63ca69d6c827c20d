"""One table of models; a new model adds a row and gets every test."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import base, checkpoint, models
from jaxunlearn.metrics.ranking import top_k_items
from jaxunlearn.train import TrainConfig, fit, init_state, prepare, train_epoch
from tests.small import checkerboard

TRAINED = {
  "bprmf": (
    models.bprmf(models.BPRMFConfig(embedding_dim=16)),
    TrainConfig(num_epochs=40, batch_size=64, learning_rate=0.02),
  ),
  "bprmf_row_adagrad": (
    models.bprmf(models.BPRMFConfig(embedding_dim=16)),
    TrainConfig(num_epochs=40, batch_size=64, learning_rate=0.1, optimizer="row_adagrad"),
  ),
  "wmf": (
    models.wmf(models.WMFConfig(embedding_dim=16, l2=0.01)),
    TrainConfig(num_epochs=40, batch_size=16, learning_rate=0.02),
  ),
  "lightgcn": (
    models.lightgcn(models.LightGCNConfig(embedding_dim=16, num_layers=2)),
    TrainConfig(num_epochs=40, batch_size=64, learning_rate=0.02),
  ),
  "neumf": (
    models.neumf(models.NeuMFConfig(embedding_dim=16, hidden=(16, 8))),
    TrainConfig(num_epochs=40, batch_size=64, learning_rate=0.01, num_negatives=4),
  ),
}
ALL = {
  **{name: row[0] for name, row in TRAINED.items()},
  "popularity": models.popularity(),
  "vectors": models.frozen(np.eye(40), np.eye(40)),
}


@pytest.fixture(scope="module")
def fitted():
  cache = {}

  def get(name):
    if name not in cache:
      model, config = TRAINED[name]
      cache[name] = fit(jax.random.key(0), model, checkerboard(), config)
    return cache[name]

  return get


@pytest.mark.parametrize("name", ALL)
def test_the_tuple_is_a_model_with_the_documented_arguments(name):
  model = ALL[name]
  assert isinstance(model, base.Model) and hash(model) is not None
  wanted = {
    "init": ["key", "num_users", "num_items"],
    "context": ["interactions"],
    "encode": ["params", "context"],
    "score": ["params", "user_vectors", "item_vectors"],
    "loss": ["params", "context", "batch"],
  }
  for field, names in wanted.items():
    assert list(inspect.signature(getattr(model, field)).parameters) == names


@pytest.mark.parametrize("name", ALL)
def test_encoding_has_a_row_an_entity_and_jit_changes_nothing(name):
  model, data = ALL[name], checkerboard()
  params, context = model.init(jax.random.key(0), 40, 40), model.context(data)
  eager, jitted = model.encode(params, context), jax.jit(model.encode)(params, context)
  assert eager.user.shape[0] == 40 and eager.item.shape[0] == 40
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), eager, jitted)


@pytest.mark.parametrize("name", TRAINED)
def test_the_checkerboard_is_learned(name, fitted):
  """The only right first item of user u is item u, which nobody showed the model."""
  model, _ = TRAINED[name]
  result, data = fitted(name), checkerboard()
  scorer = base.scorer_of(model, result.params, result.context)
  items, _ = top_k_items(scorer, np.arange(40), 1, data)
  assert np.mean(np.asarray(items)[:, 0] == np.arange(40)) >= 0.95
  assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize("name", TRAINED)
def test_a_second_epoch_does_not_trace_again(name):
  model, config = TRAINED[name]
  data = checkerboard()

  def epoch(data, key):
    return train_epoch(
      key, init_state(key, model, data, config), model.context(data), prepare(model, data, config), jnp.float32(0.01),
      jnp.float32(0.9), jnp.float32(0.5), model=model, optimizer=config.optimizer, batch_size=config.batch_size,
      num_negatives=config.num_negatives,
    )  # fmt: skip

  epoch(data, jax.random.key(0))
  traced = train_epoch._cache_size()
  epoch(data.select(np.arange(1, len(data))), jax.random.key(1))  # one pair fewer
  assert train_epoch._cache_size() == traced


@pytest.mark.parametrize("name", TRAINED)
def test_parameters_survive_a_checkpoint(name, fitted, tmp_path):
  params = fitted(name).params
  checkpoint.save(tmp_path / "model", params)
  restored, _ = checkpoint.restore(tmp_path / "model", params)
  assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(restored), strict=True))


@pytest.mark.parametrize("name", TRAINED)
def test_a_padded_example_changes_nothing(name):
  model, config = TRAINED[name]
  if model.batches != "pairwise":
    pytest.skip("user batches have padding of their own, tested in test_models")
  data = checkerboard()
  params, context = model.init(jax.random.key(0), 40, 40), model.context(data)
  real = base.Batch(jnp.asarray([1, 2]), jnp.asarray([3, 4]), jnp.asarray([[4], [5]]), jnp.ones(2))
  padded = base.Batch(
    jnp.asarray([1, 2, 0]), jnp.asarray([3, 4, 0]), jnp.asarray([[4], [5], [0]]), jnp.asarray([1.0, 1.0, 0.0])
  )
  grads = [jax.jit(jax.grad(model.loss))(params, context, batch) for batch in (real, padded)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *grads)
