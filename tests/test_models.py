import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import models
from jaxunlearn.base import Batch, scorer_of
from jaxunlearn.data.interactions import Interactions


def data(num_users=7, num_items=6):
  rng = np.random.default_rng(0)
  return Interactions.from_pairs(
    rng.integers(0, num_users, 25), rng.integers(0, num_items, 25), num_users=num_users, num_items=num_items
  )


@pytest.mark.parametrize("name", [*models.CONFIGS, "popularity"])
def test_all_scores_equal_pair_scores(name):
  interactions, model = data(), models.build(name)
  params = model.init(jax.random.key(0), 7, 6)
  scorer = scorer_of(model, params, model.context(interactions))
  users, items = np.divmod(np.arange(42), 6)
  pairs = scorer.pair_scores(jnp.asarray(users), jnp.asarray(items)).reshape(7, 6)
  np.testing.assert_allclose(scorer.scores(jnp.arange(7)), pairs, rtol=1e-5, atol=1e-6)
  assert scorer.num_users == 7 and scorer.num_items == 6
  assert (scorer.embeddings is None) == (name == "neumf")


def test_factories_return_one_model_for_equal_configurations():
  for name, config in models.CONFIGS.items():
    assert models.build(name, config()) is models.build(name, config())


def test_wmf_loss_equals_the_naive_double_sum_over_all_entries():
  config = models.WMFConfig(embedding_dim=4, unobserved_weight=0.3, l2=0.7, init_scale=0.5)
  interactions, model = data(), models.wmf(config)
  params = model.init(jax.random.key(1), 7, 6)
  users = np.asarray([5, 0, 3], np.int32)
  dense = interactions.to_csr().toarray() > 0
  row, item = np.nonzero(dense[users])
  batch = Batch(
    user=jnp.asarray(np.append(users, 0)),
    positive=jnp.asarray(np.append(item, 0)),
    negative=jnp.zeros(0, jnp.int32),
    weight=jnp.asarray([1.0, 1.0, 1.0, 0.0]),
    row=jnp.asarray(np.append(row, 3)),
    pair_weight=jnp.asarray(np.append(np.ones(len(row)), 0.0)),
  )
  table = jax.tree.map(np.asarray, params)
  naive = 0.0
  for u in users:
    for i in range(6):
      score = float(table["user"][u] @ table["item"][i])
      naive += (1 - score) ** 2 if dense[u, i] else 0.3 * score**2
      if dense[u, i]:
        naive += 0.7 * 0.5 * float(table["user"][u] @ table["user"][u] + table["item"][i] @ table["item"][i])
  assert model.loss(params, None, batch) == pytest.approx(naive / 3, rel=1e-5)


def test_lightgcn_without_layers_is_bprmf():
  interactions = data()
  gcn = models.lightgcn(models.LightGCNConfig(num_layers=0, l2=1e-2, embedding_dim=8))
  mf = models.bprmf(models.BPRMFConfig(l2=1e-2, embedding_dim=8))
  params = mf.init(jax.random.key(0), 7, 6)
  batch = Batch(
    user=jnp.asarray([0, 3]), positive=jnp.asarray([1, 2]), negative=jnp.asarray([[4], [5]]), weight=jnp.ones(2)
  )
  np.testing.assert_allclose(
    gcn.loss(params, gcn.context(interactions), batch), mf.loss(params, None, batch), rtol=1e-6
  )


def test_neumf_tower_equals_the_mlp_on_the_concatenated_vectors():
  model = models.neumf(models.NeuMFConfig(embedding_dim=3, hidden=(5, 4)))
  params = model.init(jax.random.key(2), 2, 2)
  tower = jax.tree.map(np.asarray, params["tower"])
  user, item = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
  kernel = np.concatenate([tower["user_0"]["kernel"], tower["item_0"]["kernel"]])
  hidden = np.maximum(np.concatenate([user[3:], item[3:]]) @ kernel + tower["user_0"]["bias"], 0)
  hidden = np.maximum(hidden @ tower["dense_1"]["kernel"] + tower["dense_1"]["bias"], 0)
  head = np.concatenate([tower["head_gmf"]["kernel"], tower["head_mlp"]["kernel"]])
  expected = np.concatenate([user[:3] * item[:3], hidden]) @ head + tower["head_mlp"]["bias"]
  assert model.score(params, jnp.asarray(user), jnp.asarray(item)) == pytest.approx(float(expected[0]), rel=1e-5)


def test_a_graph_is_built_once_for_pairs_and_goes_with_them():
  interactions, model = data(), models.lightgcn()
  graph = model.context(interactions)
  assert model.context(interactions) is graph
  assert model.context(interactions.select(np.arange(3))) is not graph
  alive = weakref.ref(graph)
  del graph
  gc.collect()
  assert alive() is not None
  del interactions
  gc.collect()
  assert alive() is None


def test_popularity_counts_the_pairs_of_its_context():
  interactions, model = data(), models.popularity()
  params = model.init(jax.random.key(0), 7, 6)
  got = scorer_of(model, params, model.context(interactions)).scores(jnp.asarray([4]))[0]
  np.testing.assert_array_equal(got, interactions.item_degrees())


def test_frozen_serves_what_it_is_given():
  rng = np.random.default_rng(0)
  user, item = rng.normal(size=(7, 3)), rng.normal(size=(6, 3))
  model = models.frozen(user, item)
  params = model.init(jax.random.key(0), 7, 6)
  np.testing.assert_allclose(scorer_of(model, params, None).scores(jnp.arange(7)), user @ item.T, rtol=1e-5)


@pytest.mark.parametrize(
  ("user", "item", "message"),
  [
    (np.zeros((3, 2)), np.zeros((4, 5)), "one dimension"),
    (np.zeros(3), np.zeros((4, 5)), "shape"),
    (np.asarray([[np.nan, 0.0]]), np.zeros((4, 2)), "finite"),
  ],
)
def test_frozen_refuses_bad_embeddings(user, item, message):
  with pytest.raises(ValueError, match=message):
    models.frozen(user, item)


def test_frozen_refuses_another_number_of_rows():
  with pytest.raises(ValueError, match="7 user rows"):
    models.frozen(np.zeros((5, 2)), np.zeros((6, 2))).init(jax.random.key(0), 7, 6)


@pytest.mark.parametrize(
  "make",
  [
    lambda: models.BPRMFConfig(embedding_dim=0),
    lambda: models.BPRMFConfig(l2=-1.0),
    lambda: models.BPRMFConfig(loss="bprr"),
    lambda: models.WMFConfig(unobserved_weight=2.0),
    lambda: models.LightGCNConfig(product="fast"),
    lambda: models.NeuMFConfig(hidden=()),
  ],
)
def test_configurations_are_validated(make):
  with pytest.raises(ValueError, match="Expected"):
    make()


def test_a_graph_asked_for_while_tracing_serves_later_calls():
  """It is kept for its pairs; one of tracers would raise `UnexpectedTracerError` at every later use."""
  model, interactions = models.lightgcn(models.LightGCNConfig(embedding_dim=4)), data()
  params = model.init(jax.random.key(0), 7, 6)
  traced = jax.jit(lambda params: model.encode(params, model.context(interactions)))(params)
  for one, other in zip(traced, model.encode(params, model.context(interactions)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-6)
