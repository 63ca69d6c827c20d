"""Aggregators against plain loops over shards, and what training them can and cannot reach."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import aggregate, models, partition
from jaxunlearn.aggregate import AggregateConfig
from jaxunlearn.base import Batch
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.epoch import prepare
from jaxunlearn.sampling import epoch_order, pairwise_batch, shuffle_strata, users_batch
from jaxunlearn.shards import train_shards
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn import _sharded
from tests.small import checkerboard

SHARDS, LAYERS = 3, 2
MODELS = {
  "bprmf": models.bprmf(models.BPRMFConfig(embedding_dim=8, init_scale=0.5)),
  "wmf": models.wmf(models.WMFConfig(embedding_dim=8, init_scale=0.5)),
  "lightgcn": models.lightgcn(models.LightGCNConfig(embedding_dim=8, num_layers=LAYERS, init_scale=0.5)),
  "neumf": models.neumf(models.NeuMFConfig(embedding_dim=4, hidden=(8, 4), init_scale=0.5)),
}
NUM_USERS, NUM_ITEMS = 14, 11
USERS, ITEMS = np.array([0, 3, 13, 5, 12]), np.array([10, 2, 2, 0, 9])


def some_data():
  """Pairs over `NUM_USERS` × `NUM_ITEMS`; user 12 and item 9 have none."""
  rng = np.random.default_rng(1)
  user, item = rng.integers(0, NUM_USERS, 70), rng.integers(0, NUM_ITEMS, 70)
  keep = (user != 12) & (item != 9)
  return Interactions.from_pairs(user[keep], item[keep], num_users=NUM_USERS, num_items=NUM_ITEMS)


def submodels(name, config=None):
  """(model, parameters of each shard, pairs of each shard, all pairs, ShardVectors), untrained."""
  data, model = some_data(), MODELS[name]
  parts = partition.random(jax.random.key(5), data, SHARDS).shards(data)
  params = [model.init(jax.random.key(s), NUM_USERS, NUM_ITEMS) for s in range(SHARDS)]
  contexts = [model.context(part) for part in parts]
  vectors = aggregate.shard_vectors(model, params, contexts, parts, data, config or AggregateConfig(mask_absent=False))
  return model, params, parts, data, vectors


def dense_propagation(table, data):
  """LightGCN's mean over layers, from the dense adjacency of the pairs."""
  adjacency = np.zeros((NUM_USERS + NUM_ITEMS,) * 2)
  adjacency[data.user, NUM_USERS + data.item] = adjacency[NUM_USERS + data.item, data.user] = 1
  root = np.sqrt(np.maximum(adjacency.sum(0), 1))
  normalised = adjacency / np.outer(root, root)
  layers = [np.asarray(table, np.float64)]
  for _ in range(LAYERS):
    layers.append(normalised @ layers[-1])
  return np.mean(layers, axis=0)


def naive_tower(tower, user, item):
  """NeuMF's logit of one pair of vectors, the first layer on their concatenation."""
  half = len(user) // 2
  kernel = np.concatenate([tower["user_0"]["kernel"], tower["item_0"]["kernel"]])
  x = np.maximum(np.concatenate([user[half:], item[half:]]) @ kernel + tower["user_0"]["bias"], 0)
  x = np.maximum(x @ tower["dense_1"]["kernel"] + tower["dense_1"]["bias"], 0)
  deep = x @ tower["head_mlp"]["kernel"] + tower["head_mlp"]["bias"]
  return (deep + (user[:half] * item[:half]) @ tower["head_gmf"]["kernel"])[0]


def naive_vectors(name, params, part):
  """One submodel's vectors of all users and all items."""
  user, item = np.asarray(params["user"], np.float64), np.asarray(params["item"], np.float64)
  if name == "lightgcn":
    nodes = dense_propagation(np.concatenate([user, item]), part)
    return nodes[:NUM_USERS], nodes[NUM_USERS:]
  return user, item


def naive_score(rest, user, item):
  return naive_tower(jax.tree.map(np.asarray, rest["tower"]), user, item) if rest else float(user @ item)


def naive_weighted(name, params, parts, weight):
  """Σ_i w_i ŷ^i for every pair, by a loop over shards, users and items."""
  out = np.zeros((NUM_USERS, NUM_ITEMS))
  for shard in range(SHARDS):
    user, item = naive_vectors(name, params[shard], parts[shard])
    rest = {"tower": params[shard]["tower"]} if name == "neumf" else {}
    for u in range(NUM_USERS):
      for i in range(NUM_ITEMS):
        out[u, i] += weight[shard] * naive_score(rest, user[u], item[i])
  return out


def check_scorer(scorer, wanted):
  np.testing.assert_allclose(scorer.scores(jnp.asarray(USERS)), wanted[USERS], rtol=2e-5, atol=2e-5)
  np.testing.assert_allclose(
    scorer.pair_scores(jnp.asarray(USERS), jnp.asarray(ITEMS)), wanted[USERS, ITEMS], rtol=2e-5, atol=2e-5
  )
  assert (scorer.num_users, scorer.num_items) == (NUM_USERS, NUM_ITEMS)
  if scorer.inner_product:
    user, item = scorer.embeddings
    np.testing.assert_allclose(user @ item.T, wanted, rtol=2e-5, atol=2e-5)
  else:
    assert scorer.embeddings is None


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["mean", "static"])
def test_weighted_scores_are_those_of_a_loop_over_shards(name, kind):
  model, params, parts, _, vectors = submodels(name)
  logits = np.array([0.3, -1.0, 1.2], np.float32)
  weight = np.exp(logits) / np.exp(logits).sum() if kind == "static" else np.full(SHARDS, 1 / SHARDS)
  learned = {"logits": jnp.asarray(logits)} if kind == "static" else {}
  scorer = aggregate.aggregated_scorer(model, vectors, learned, AggregateConfig(kind=kind))
  assert scorer.inner_product == (name != "neumf")
  check_scorer(scorer, naive_weighted(name, params, parts, weight))


@pytest.mark.parametrize("name", ["bprmf", "lightgcn"])
def test_a_shard_says_nothing_about_whom_it_never_saw(name):
  model, params, parts, _, _ = submodels(name)
  *_, vectors = submodels(name, AggregateConfig(kind="mean"))
  for shard, part in enumerate(parts):
    user, item = naive_vectors(name, params[shard], part)
    user[part.user_degrees() == 0], item[part.item_degrees() == 0] = 0, 0
    np.testing.assert_allclose(vectors.user[shard], user, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(vectors.item[shard], item, rtol=1e-5, atol=1e-6)
  scores = aggregate.aggregated_scorer(model, vectors, {}, AggregateConfig(kind="mean")).scores(jnp.arange(NUM_USERS))
  assert np.all(scores[12] == 0) and np.all(scores[:, 9] == 0)  # no shard saw them
  assert np.count_nonzero(scores) > 0


def test_a_shard_of_weight_zero_is_not_heard():
  model, params, parts, _, vectors = submodels("bprmf")
  weight = np.array([0.0, 0.25, 0.75], np.float32)
  check_scorer(
    aggregate.weighted_scorer(model, vectors, jnp.asarray(weight)), naive_weighted("bprmf", params, parts, weight)
  )


def naive_attention(params, side, x, present, mask):
  """RecEraser's eqs. 5 to 8 for one user or item: x [K, d], present [K]; p = Σ_i α_i (x_i W_i + b_i) or Σ_i α_i x_i."""
  z = [x[i] if present[i] or not mask else 0 * x[i] for i in range(SHARDS)]  # a row without a pair is no vector
  if "kernel" in params:
    z = [z[i] @ params["kernel"][i] + params["bias"][i] for i in range(SHARDS)]
  attention = params["attention"][side]
  logits = [
    float(np.maximum(z[i] @ attention["kernel"] + attention["bias"], 0) @ attention["head"]) for i in range(SHARDS)
  ]
  heard = [i for i in range(SHARDS) if not mask or present[i] or not any(present)]
  total = sum(np.exp(logits[i]) for i in heard)
  return sum(np.exp(logits[i]) / total * z[i] for i in heard)


def has_pair(part, side, row):
  return bool((getattr(part, side) == row).any())


def naive_served(params, tables, parts, mask):
  """(user vectors, item vectors) that the attention makes of the submodels' [user tables], [item tables]."""
  out = []
  for side, size, of_shards in (("user", NUM_USERS, tables[0]), ("item", NUM_ITEMS, tables[1])):
    rows = [
      naive_attention(
        params,
        side,
        [of_shards[s][row] for s in range(SHARDS)],
        [has_pair(part, side, row) for part in parts],
        mask,
      )
      for row in range(size)
    ]
    out.append(np.stack(rows))
  return out


def aggregator_of(model, config):
  if config.kind == "static":
    return aggregate.static_model(model, SHARDS)
  return aggregate.attention_model(model, SHARDS, config)


def random_aggregator(model, config, seed=7):
  """Parameters with biases that are not zero."""
  params = aggregate.attention_model(model, SHARDS, config).init(jax.random.key(seed), NUM_USERS, NUM_ITEMS)
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32), params)


@pytest.mark.parametrize(
  ("name", "mask", "transfer"),
  [*((name, mask, True) for name in MODELS for mask in (True, False)), ("bprmf", True, False), ("neumf", False, False)],
)
def test_attention_is_the_papers_equations(name, mask, transfer):
  config = AggregateConfig(attention_dim=5, mask_absent=mask, transfer=transfer)
  model, params, parts, _, vectors = submodels(name, config)
  assert not any(has_pair(part, "user", 12) or has_pair(part, "item", 9) for part in parts)  # absent everywhere
  present = np.array([[has_pair(part, "user", user) for part in parts] for user in range(NUM_USERS)])
  assert (present.any(1) & ~present.all(1)).any()  # absent somewhere
  learned = random_aggregator(model, config)
  assert set(learned) == {"attention", "rest"} | ({"kernel", "bias"} if transfer else set())
  numbers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), learned)
  tables = list(zip(*(naive_vectors(name, p, part) for p, part in zip(params, parts, strict=True)), strict=True))
  user, item = naive_served(numbers, tables, parts, mask)
  scorer = aggregate.aggregated_scorer(model, vectors, learned, config)
  np.testing.assert_allclose(scorer.vectors.user, user, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(scorer.vectors.item, item, rtol=1e-4, atol=1e-5)
  wanted = np.array([[naive_score(numbers["rest"], u, i) for i in item] for u in user])
  np.testing.assert_allclose(scorer.scores(jnp.asarray(USERS)), wanted[USERS], rtol=1e-4, atol=1e-4)
  pairs = scorer.pair_scores(jnp.asarray(USERS), jnp.asarray(ITEMS))
  np.testing.assert_allclose(pairs, wanted[USERS, ITEMS], rtol=1e-4, atol=1e-4)
  assert (scorer.embeddings is None) == (name == "neumf")


@pytest.mark.parametrize(
  ("name", "transfer", "size"), [("bprmf", True, 1000), ("wmf", True, 64), ("bprmf", False, 1000), ("bprmf", True, 300)]
)
def test_without_absent_rows_the_attention_is_the_same(name, transfer, size, monkeypatch):
  """The packed rows against [K, n, d] tables, in value and gradient, with shards of several blocks.

  300 examples read 1,200 of 1,600 rows, in every shard 4,800, where all present ones are 4,600 in blocks.
  """
  config = AggregateConfig(attention_dim=5, transfer=transfer)
  rng, shards, num_users, num_items = np.random.default_rng(3), 4, 900, 700
  data = Interactions.from_pairs(
    rng.integers(0, num_users - 1, 4000), rng.integers(1, num_items, 4000), num_users=num_users, num_items=num_items
  )
  parts = partition.random(jax.random.key(5), data, shards).shards(data)
  model = MODELS[name]
  params = [model.init(jax.random.key(s), num_users, num_items) for s in range(shards)]
  vectors = aggregate.shard_vectors(model, params, [None] * shards, parts, data, config)
  assert vectors.packed is not None
  assert all(len(set(np.asarray(p.shard).tolist())) == shards and p.shard.size > shards for p in vectors.packed)
  aggregator = aggregate.attention_model(model, shards, config)
  learned = jax.tree.map(
    lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32),
    aggregator.init(jax.random.key(2), num_users, num_items),
  )
  dense = vectors.replace(packed=None)
  for one, other in zip(*(jax.jit(aggregator.encode)(learned, v) for v in (vectors, dense)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
  batch = users_of(model, data, size) if name == "wmf" else pairwise(data, size)
  packed = []
  mean = aggregate._present_rows.softmax_mean
  monkeypatch.setattr(aggregate._present_rows, "softmax_mean", lambda *args: packed.append(1) or mean(*args))
  found, wanted = (jax.jit(jax.value_and_grad(aggregator.loss))(learned, v, batch) for v in (vectors, dense))
  assert packed  # else both have read the tables
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


def test_combined_adds_the_shards_own_scores_in_units_of_their_spread():
  config = AggregateConfig(kind="combined", attention_dim=5, mean_weight=0.7)
  model, _, _, _, vectors = submodels("bprmf", config)
  learned = random_aggregator(model, config)
  everyone = jnp.arange(NUM_USERS)
  attention, mean, combined = (
    np.asarray(aggregate.aggregated_scorer(model, vectors, learned, AggregateConfig(**kind)).scores(everyone))
    for kind in ({"attention_dim": 5}, {"kind": "mean"}, {"kind": "combined", "attention_dim": 5, "mean_weight": 0.7})
  )
  wanted = attention + 0.7 * mean * attention.std() / mean.std()
  np.testing.assert_allclose(combined, wanted, rtol=1e-4, atol=1e-4)


def test_combined_needs_inner_products():
  with pytest.raises(ValueError, match='for neumf, got "combined"'):
    submodels("neumf", AggregateConfig(kind="combined"))


@pytest.mark.parametrize("kind", ["mean", "static", "combined"])
def test_only_attention_propagates_what_it_puts_together(kind):
  """The others would serve layer 0, which was the case for the mean and static weights."""
  with pytest.raises(ValueError, match=f"propagate_last=True, got '{kind}'"):
    AggregateConfig(kind=kind, propagate_last=True)


@pytest.mark.parametrize("kind", ["mean", "static"])
def test_only_attention_has_maps_to_leave_out(kind):
  with pytest.raises(ValueError, match=f"transfer=False, got '{kind}'"):
    AggregateConfig(kind=kind, transfer=False)


def test_an_aggregator_is_refused_before_a_shard_is_trained(monkeypatch):
  monkeypatch.setattr(_sharded, "train_shards", None)
  for model, changes in (("neumf", {"kind": "combined"}), ("bprmf", {"propagate_last": True})):
    config = _sharded.ShardConfig(aggregate=AggregateConfig(**changes))
    with pytest.raises(ValueError, match=f"for {model}"):
      _sharded.sharded(MODELS[model], config, lambda key, data: None, name="any")
  with pytest.raises(ValueError, match="train.optimizer of an aggregator"):
    AggregateConfig(train=TrainConfig(optimizer="row_adam"))


def test_lightgcn_can_propagate_what_is_aggregated():
  config = AggregateConfig(attention_dim=5, propagate_last=True)
  model, params, parts, data, vectors = submodels("lightgcn", config)
  learned = random_aggregator(model, config)
  numbers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), learned)
  tables = [[np.asarray(p[side], np.float64) for p in params] for side in ("user", "item")]  # layer 0, not encoded
  nodes = dense_propagation(np.concatenate(naive_served(numbers, tables, parts, True)), data)
  scorer = aggregate.aggregated_scorer(model, vectors, learned, config)
  np.testing.assert_allclose(scorer.vectors.user, nodes[:NUM_USERS], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(scorer.vectors.item, nodes[NUM_USERS:], rtol=1e-4, atol=1e-5)
  # Training sees what is served: the loss is that of these vectors.
  batch = pairwise(data, 4)
  high = np.sum(nodes[batch.user] * nodes[NUM_USERS + batch.positive], -1)
  low = np.sum(nodes[batch.user][:, None] * nodes[NUM_USERS + batch.negative], -1)
  wanted = np.average(np.mean(np.log1p(np.exp(low - high[:, None])), axis=1), weights=batch.weight)
  plain = AggregateConfig(attention_dim=5, propagate_last=True, l2=0.0, row_l2=0.0)
  found = jax.jit(aggregate.attention_model(model, SHARDS, plain).loss)(learned, vectors, batch)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("name", ["bprmf", "wmf", "neumf"])
def test_only_a_graph_can_be_propagated_over(name):
  with pytest.raises(ValueError, match=f"propagate_last=False for {name}"):
    submodels(name, AggregateConfig(propagate_last=True))


@functools.partial(jax.jit, static_argnames=("size", "num_negatives"))
def drawn_pairs(padded, *, size, num_negatives):
  order = epoch_order(jax.random.key(2), padded.count, padded.capacity)
  return pairwise_batch(jax.random.key(1), padded, order, jnp.int32(0), batch_size=size, num_negatives=num_negatives)


def pairwise(data, size, num_negatives=2):
  drawn = drawn_pairs(data.padded(), size=size, num_negatives=num_negatives)
  weight = np.linspace(0.5, 1.5, size, dtype=np.float32)
  return Batch(*(np.asarray(x) for x in (drawn.user, drawn.positive, drawn.negative, weight / weight.mean())))


def users_of(model, data, size=4):
  """A batch of users, for WMF."""
  made = prepare(model, data, TrainConfig(batch_size=size))
  return users_batch(made.pairs, shuffle_strata(jax.random.key(4), made.strata)[:, 0], made.num_pairs)


@pytest.mark.parametrize("name", ["bprmf", "lightgcn", "neumf"])
def test_rows_and_the_whole_table_have_one_loss(name):
  config = AggregateConfig(attention_dim=5)
  model, _, _, data, vectors = submodels(name, config)
  loss = jax.jit(jax.value_and_grad(aggregate.attention_model(model, SHARDS, config).loss))
  learned, small = random_aggregator(model, config), pairwise(data, 4, num_negatives=1)
  # Four examples read 12 of the 25 rows. Repeated, they have the same mean and read 48, so that all are aggregated.
  large = Batch(*(np.concatenate([x] * 4) for x in small[:4]))
  rows, whole = loss(learned, vectors, small), loss(learned, vectors, large)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), rows, whole)


def test_the_attentions_loss_is_ranking_rows_and_maps():
  config = AggregateConfig(attention_dim=5, l2=0.3, row_l2=0.2)
  model, params, parts, data, vectors = submodels("bprmf", config)
  learned, batch = random_aggregator(model, config), pairwise(data, 4)
  numbers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), learned)
  tables = [[np.asarray(p[side], np.float64) for p in params] for side in ("user", "item")]
  user, item = naive_served(numbers, tables, parts, True)
  total = 0.0
  for u, i, others, weight in zip(batch.user, batch.positive, batch.negative, batch.weight, strict=True):
    ranking = np.mean([np.log1p(np.exp(user[u] @ (item[j] - item[i]))) for j in others])
    squares = user[u] @ user[u] + item[i] @ item[i] + np.mean([item[j] @ item[j] for j in others])
    total += weight * (ranking + 0.2 * 0.5 * squares)
  wanted = total / batch.weight.sum() + 0.3 * 0.5 * (np.sum(numbers["kernel"] ** 2) + np.sum(numbers["bias"] ** 2))
  found = jax.jit(aggregate.attention_model(model, SHARDS, config).loss)(learned, vectors, batch)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("kind", ["static", "attention"])
def test_wmfs_loss_is_over_all_items(kind):
  """The loss of a batch of users, against the double loop over them and all items."""
  config = AggregateConfig(kind=kind, attention_dim=5, l2=0.0)
  model, _, _, data, vectors = submodels("wmf", config)
  learned = random_aggregator(model, config) if kind == "attention" else {"logits": jnp.array([0.5, 0.0, -1.0])}
  batch = users_of(model, data)
  scores = np.asarray(aggregate.aggregated_scorer(model, vectors, learned, config).scores(jnp.arange(NUM_USERS)))
  pairs, total, real = set(zip(data.user.tolist(), data.item.tolist(), strict=True)), 0.0, 0
  for u, weight in zip(np.asarray(batch.user), np.asarray(batch.weight), strict=True):
    if weight > 0:
      real += 1
      for i in range(NUM_ITEMS):
        seen = (int(u), i) in pairs
        total += (1 - scores[u, i]) ** 2 if seen else model.config.unobserved_weight * scores[u, i] ** 2
  np.testing.assert_allclose(
    jax.jit(aggregator_of(model, config).loss)(learned, vectors, batch), total / real, rtol=1e-4
  )


@pytest.mark.parametrize("name", ["bprmf", "lightgcn", "neumf"])
def test_static_loss_is_the_ranking_of_the_weighted_scores(name):
  model, params, parts, data, vectors = submodels(name)
  logits = np.array([0.3, -1.0, 1.2], np.float32)
  scores = naive_weighted(name, params, parts, np.exp(logits) / np.exp(logits).sum())
  batch, terms = pairwise(data, 4), []
  for u, i, others in zip(batch.user, batch.positive, batch.negative, strict=True):
    if name == "neumf":
      signed = [-scores[u, i], *(scores[u, j] for j in others)]  # label 1, labels 0
    else:
      signed = [scores[u, j] - scores[u, i] for j in others]
    terms.append(np.mean(np.log1p(np.exp(signed))))
  found = jax.jit(aggregate.static_model(model, SHARDS).loss)({"logits": jnp.asarray(logits)}, vectors, batch)
  np.testing.assert_allclose(found, np.average(terms, weights=batch.weight), rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["static", "attention"])
def test_training_changes_the_aggregator_and_nothing_else(name, kind):
  config = AggregateConfig(kind=kind, attention_dim=5, train=TrainConfig(num_epochs=2, batch_size=4))
  model, params, _, data, vectors = submodels(name, config)
  before = jax.tree.map(np.array, (params, vectors))
  first = aggregate.fit_aggregator(jax.random.key(0), model, vectors, data, config, progress=False)
  jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, (params, vectors)))
  own = {"logits"} if kind == "static" else {"kernel", "bias", "attention", "rest"}
  assert first.keys() == own  # and so neither a table nor a submodel's tower has a place in what is trained
  fresh = aggregator_of(model, config).init(jax.random.fold_in(jax.random.key(0), 0), NUM_USERS, NUM_ITEMS)
  moved = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), first, fresh)
  assert all(jax.tree.leaves(moved)), moved
  again = aggregate.fit_aggregator(jax.random.key(0), model, vectors, data, config, progress=False)
  jax.tree.map(np.testing.assert_array_equal, first, again)


def test_the_mean_has_nothing_to_train():
  model, _, _, data, vectors = submodels("bprmf")
  assert aggregate.fit_aggregator(jax.random.key(0), model, vectors, data, AggregateConfig(kind="mean")) == {}


def trained_shards(data, num_shards, **changes):
  """A bprmf trained on random shards: (model, parts, params)."""
  model = MODELS["bprmf"]
  parts = partition.random(jax.random.key(5), data, num_shards).shards(data)
  keys = [jax.random.fold_in(jax.random.key(9), s) for s in range(num_shards)]
  config = TrainConfig(num_epochs=30, batch_size=64, learning_rate=0.02, **changes)
  return model, parts, train_shards(keys, model, parts, config, progress=False).params


def vectors_of(model, params, parts, data, config):
  return aggregate.shard_vectors(model, params, [None] * len(params), parts, data, config)


def test_static_weights_find_the_shard_that_knows():
  data, config = checkerboard(), AggregateConfig(kind="static", train=TrainConfig(learning_rate=0.05, num_epochs=40))
  sign = np.where(np.arange(40) % 2 == 0, 1.0, -1.0).astype(np.float32)
  good = jnp.zeros((40, 8)).at[:, 0].set(sign)  # +1 for an observed kind of pair, −1 for any other
  noise = [jax.random.normal(jax.random.key(s), (2, 40, 8)) * 0.6 for s in range(3)]
  params = [{"user": good, "item": good}, *({"user": user, "item": item} for user, item in noise)]
  model = MODELS["bprmf"]
  vectors = vectors_of(model, params, [data] * 4, data, config)
  learned = aggregate.fit_aggregator(jax.random.key(1), model, vectors, data, config, progress=False)
  weight = np.asarray(jax.nn.softmax(learned["logits"]))
  assert weight[0] > 0.7 and weight[1:].max() < 0.2, weight


def wrong_kind(scorer):
  """Share of (user, other kind's item) above (user, own kind's item): 0 is the right ranking of a checkerboard."""
  scores = np.asarray(scorer.scores(jnp.arange(40)))
  same = np.equal.outer(np.arange(40) % 2, np.arange(40) % 2)
  return np.mean([np.mean(scores[u][~same[u]][:, None] >= scores[u][same[u]][None, :]) for u in range(40)])


def test_attention_ranks_better_than_the_mean_of_weak_submodels():
  data = checkerboard()
  thin = data.select(np.random.default_rng(0).random(len(data)) < 0.35)
  train = TrainConfig(num_epochs=40, batch_size=64, learning_rate=0.01)
  config = AggregateConfig(attention_dim=8, train=train)
  model, parts, params = trained_shards(thin, 6)
  vectors = vectors_of(model, params, parts, thin, config)
  mean = aggregate.aggregated_scorer(model, vectors, {}, AggregateConfig(kind="mean"))
  losses = {}
  for epochs in (1, 40):
    shorter = dataclasses.replace(config, train=dataclasses.replace(train, num_epochs=epochs))
    learned = aggregate.fit_aggregator(jax.random.key(1), model, vectors, thin, shorter, progress=False)
    batch = pairwise(thin, 64)
    losses[epochs] = float(jax.jit(aggregate.attention_model(model, 6, config).loss)(learned, vectors, batch))
  served = aggregate.aggregated_scorer(model, vectors, learned, config)
  assert losses[40] < 0.8 * losses[1], losses
  assert wrong_kind(mean) > 0.05  # there is something to gain
  assert wrong_kind(served) < 0.5 * wrong_kind(mean), (wrong_kind(served), wrong_kind(mean))


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"kind": "median"}, "kind='median'"),
    ({"attention_dim": 0}, "attention_dim=0"),
    ({"l2": -1.0}, "l2=-1.0"),
    ({"row_l2": float("nan")}, "row_l2=nan"),
    ({"mean_weight": -0.1}, "mean_weight=-0.1"),
  ],
)
def test_wrong_settings_are_named(changes, words):
  with pytest.raises(ValueError, match=words):
    AggregateConfig(**changes)


def test_an_aggregator_has_no_context_of_pairs():
  with pytest.raises(ValueError, match="ShardVectors"):
    aggregate.static_model(MODELS["bprmf"], SHARDS).context(some_data())
