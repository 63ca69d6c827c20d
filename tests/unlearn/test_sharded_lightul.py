import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import kmeans, models, partition
from jaxunlearn.aggregate import AggregateConfig
from jaxunlearn.requests import Request
from jaxunlearn.shards import Placement
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn import _sharded_whitening, lightul
from jaxunlearn.unlearn._sharded import ShardConfig, ShardedState, fit_sharded, sharded_scorer
from jaxunlearn.unlearn.lightul import LightULConfig
from jaxunlearn.unlearn.sharded_lightul import ServedShards, served_scorer, sharded_lightul, unlearn
from tests.small import random_pairs
from tests.unlearn.test_lightul import find_pairs

K = 3
KEY = jax.random.key(5)
MF = models.bprmf(models.BPRMFConfig(embedding_dim=8))
GCN = models.lightgcn(models.LightGCNConfig(embedding_dim=8, num_layers=2))
TRAIN = TrainConfig(num_epochs=3, batch_size=32, learning_rate=0.05)
MEAN = ShardConfig(train=TRAIN, aggregate=AggregateConfig(kind="mean"))
STATIC = ShardConfig(train=TRAIN, aggregate=AggregateConfig(kind="static", train=TRAIN))
QUICK = {"num_epochs": 4, "batch_size": 4, "num_preserve": 64, "hidden": 16, "phantom_ratio": 0.2, "patience": 0}


def split(key, interactions):
  return partition.random(key, interactions, K)


def quick(objective="preserve", **changes):
  return LightULConfig.preset(objective, **{**QUICK, **changes})


@pytest.fixture
def x64(fitted):
  fitted(MF), fitted(GCN)  # trained as ever, in single precision
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope="module")
def fitted():
  cache = {}

  def get(model=MF, config=MEAN):
    at = model.name, config.aggregate.kind
    if at not in cache:
      data = random_pairs()
      cache[at] = fit_sharded(jax.random.key(4), model, data, split(jax.random.key(4), data), config)
    return cache[at]

  return get


def some(state, shards, count=6):
  """Pairs of the given shards, `count` of the first, one more of each next: the shards take different steps."""
  rows = [np.flatnonzero(state.partition.shard == s)[: count + at] for at, s in enumerate(shards)]
  return state.interactions.select(np.sort(np.concatenate(rows)))


def vectors_of(model, state):
  """float [K, ., d]: what each shard of a base serves."""
  each = [
    model.encode(p, model.context(part))
    for p, part in zip(state.params, state.partition.shards(state.interactions), strict=True)
  ]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *each)


def means(scorer, pairs):
  return np.asarray(scorer.pair_scores(jnp.asarray(pairs.user), jnp.asarray(pairs.item)))


@pytest.mark.parametrize(
  ("model", "objective", "way", "patience"),
  [(MF, "preserve", "vmap", 0), (GCN, "preserve", "vmap", 0), (MF, "preserve", "map", 0), (MF, "paper", "vmap", 2)],
)
def test_every_shard_equals_lightul_on_its_own_model_and_pairs(model, objective, way, patience, fitted, x64):
  # Doubles: Adam divides a gradient by its size, so one that cancels turns float32 rounding into whole steps.
  state = fitted(model)
  state = state.replace(params=jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), state.params))
  forget = some(state, [0, 2])
  config = quick(objective, patience=patience, min_delta=0.02, num_epochs=12 if patience else 4)
  result = unlearn(jax.random.key(9), model, state, forget, config, way=way)
  parts = state.partition.shards(state.interactions)
  present = np.median([np.sum(part.user_degrees() > 0) for part in parts])
  alone = dataclasses.replace(config, phantom_ratio=round(config.phantom_ratio * present) / forget.num_users)
  epochs = []
  for s in (0, 2):
    mine = parts[s].intersection(forget)
    one = lightul.unlearn(
      jax.random.fold_in(jax.random.key(9), s), model, state.params[s], parts[s], mine, alone, capacity=state.capacity
    )
    for side in ("user", "item"):
      got, want = np.asarray(getattr(result.state.vectors, side)[s]), np.asarray(getattr(one.state.vectors, side))
      np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
    epochs.append(one.info["epochs"])
  assert result.info["shards_whitened"] == [0, 2] and result.info["epochs"] == epochs
  assert not patience or len(set(epochs)) == 2  # each by its own probe


@pytest.mark.parametrize("model", [MF, GCN], ids=["bprmf", "lightgcn"])
def test_untouched_shards_and_rows_are_bitwise_unchanged(model, fitted):
  state = fitted(model)
  forget = some(state, [1])
  new = unlearn(KEY, model, state, forget, quick()).state
  old = vectors_of(model, state)
  base = model.encode(state.params[1], model.context(state.partition.shards(state.interactions)[1].without(forget)))
  for side, degree in (("user", forget.user_degrees()), ("item", forget.item_degrees())):
    got = np.asarray(getattr(new.vectors, side))
    assert np.array_equal(got[[0, 2]], getattr(old, side)[[0, 2]])
    rows = np.asarray(getattr(base, side))
    assert np.array_equal(got[1][degree == 0], rows[degree == 0])
    assert np.all(np.any(got[1][degree > 0] != rows[degree > 0], axis=1))


@pytest.mark.parametrize("config", [MEAN, STATIC], ids=["mean", "static"])
def test_forgotten_pairs_sink_and_retained_ones_stay(config, fitted):
  state = fitted(MF, config)
  forget = some(state, range(K), 4)
  before = sharded_scorer(MF, config, state)
  new = unlearn(KEY, MF, state, forget, quick(num_epochs=60, preserve=4.0)).state
  after, retained = served_scorer(new), new.interactions
  sunk = means(before, forget).mean() - means(after, forget).mean()
  moved = np.sqrt(np.mean((means(after, retained) - means(before, retained)) ** 2))
  assert sunk > 0.3 * np.std(means(before, retained))
  assert moved < 0.5 * sunk
  weight = np.full(K, 1 / K) if config is MEAN else np.asarray(jax.nn.softmax(state.aggregator["logits"]))
  parts = new.partition.shards(new.interactions)
  user = np.stack([(part.user_degrees() > 0)[:, None] for part in parts]) * np.asarray(new.vectors.user)
  item = np.stack([(part.item_degrees() > 0)[:, None] for part in parts]) * np.asarray(new.vectors.item)
  each = np.einsum("kud,kid->kui", user, item)  # a shard is silent about whom it never saw
  np.testing.assert_allclose(after.scores(np.arange(40)), np.einsum("k,kui->ui", weight, each), rtol=1e-4, atol=1e-5)


def test_a_second_request_of_another_size_does_not_retrace_and_nothing_forgotten_is_left():
  unlearner = sharded_lightul(MF, MEAN, split, quick())
  assert unlearner.guarantee == "approximate" and unlearner.name == "lightul-shards"
  state = unlearner.fit(KEY, random_pairs())
  assert isinstance(state, ShardedState)
  first = some(state, [0], 3)
  # The search finds what is there; without the partition, whose shards beside users only look like pairs.
  assert find_pairs(state.replace(partition=None), first) == set(
    zip(first.user.tolist(), first.item.tolist(), strict=True)
  )
  state = unlearner.unlearn(KEY, state, first).state
  programs = (_sharded_whitening._start, _sharded_whitening._run, _sharded_whitening._served, kmeans.kmeans)
  traced = [program._cache_size() for program in programs]
  second = some(state, [1, 2], 11)
  result = unlearner.unlearn(jax.random.key(6), state, second)
  assert [program._cache_size() for program in programs] == traced
  assert isinstance(result.state, ServedShards) and result.info["shards_whitened"] == [1, 2]
  searched = result.state.replace(partition=None)
  assert not find_pairs(searched, first) and not find_pairs(searched, second)
  kept = state.interactions.without(second)
  assert result.state.interactions.digest() == kept.digest()
  fresh = split(jax.random.fold_in(KEY, 1), kept)  # by keyed hashes of the ids, so it shows misalignment
  assert np.array_equal(result.state.partition.shard, fresh.shard)
  floats = [leaf for leaf in jax.tree.leaves(result.state) if np.issubdtype(leaf.dtype, np.floating)]
  assert len(floats) == 3  # served vectors and shard weights: no submodel, no network, no phantom
  # Shard 0 is untouched by the second request: it serves what the first left.
  assert np.array_equal(result.state.vectors.user[0], state.vectors.user[0])
  assert not np.array_equal(result.state.vectors.user[1], state.vectors.user[1])


def test_a_shard_without_a_retained_pair_serves_nothing(fitted):
  state = fitted()
  whole = state.interactions.select(state.partition.shard == 1)
  result = unlearn(KEY, MF, state, whole, quick())
  assert result.info["shards_emptied"] == [1] and result.info["shards_whitened"] == []
  assert not np.any(result.state.vectors.user[1]) and not np.any(result.state.vectors.item[1])
  both = unlearn(KEY, MF, state, whole.union(some(state, [2])), quick())
  assert both.info["shards_emptied"] == [1] and both.info["shards_whitened"] == [2]
  old = vectors_of(MF, state)
  assert not np.any(both.state.vectors.user[1]) and np.array_equal(both.state.vectors.item[0], old.item[0])
  again = unlearn(KEY, MF, both.state, some(both.state, [0]), quick()).state
  assert not np.any(again.vectors.user[1]) and np.all(np.isfinite(served_scorer(again).scores(np.arange(40))))


@pytest.mark.parametrize("mask_absent", [True, False])
def test_what_a_request_leaves_alone_is_served_as_before(mask_absent):
  config = dataclasses.replace(MEAN, aggregate=AggregateConfig(kind="mean", mask_absent=mask_absent))
  unlearner = sharded_lightul(MF, config, split, quick(), progress=False)
  data = random_pairs()
  state = unlearner.fit(KEY, data)
  new = unlearner.unlearn(KEY, state, data.select(np.arange(len(data)) == 7)).state
  before, after = (np.asarray(unlearner.scorer(s).scores(jnp.arange(data.num_users))) for s in (state, new))
  same = np.ones(before.shape, bool)
  same[data.user[7]], same[:, data.item[7]] = False, False
  np.testing.assert_allclose(after[same], before[same], rtol=1e-5, atol=1e-6)
  again = unlearner.unlearn(KEY, new, new.interactions.select(np.arange(len(new.interactions)) == 0)).state
  assert again.mask_absent is mask_absent


def test_requests_by_id_and_the_empty_request(fitted):
  state = fitted()
  unlearner = sharded_lightul(MF, dataclasses.replace(MEAN, placement=Placement(way="map")), split, quick())
  assert unlearner.unlearn(KEY, state, Request()).state is state
  served = unlearner.unlearn(KEY, state, Request(users=[3], items=[5])).state
  assert not np.any(served.interactions.user == 3) and not np.any(served.interactions.item == 5)
  assert len(served.partition) == len(served.interactions)
  np.testing.assert_array_equal(
    unlearner.scorer(state).scores(np.arange(9)), sharded_scorer(MF, MEAN, state).scores(np.arange(9))
  )
  assert np.all(np.isfinite(unlearner.scorer(served).scores(np.arange(40))))


def test_the_pure_function_refuses_what_the_others_refuse(fitted):
  state = fitted()
  with pytest.raises(ValueError, match="resolve it first"):
    unlearn(KEY, MF, state, Request(users=[3]), quick())
  with pytest.raises(ValueError, match="delete the model instead"):
    unlearn(KEY, MF, state, state.interactions, quick())
  nothing = state.interactions.select(np.zeros(len(state.interactions), bool))
  assert unlearn(KEY, MF, state, nothing, quick()).state is state


def test_what_is_not_defined_is_refused(fitted):
  state = fitted()
  attention = ShardConfig(train=TRAIN, aggregate=AggregateConfig(kind="attention"))
  released = LightULConfig.preset("released")
  with pytest.raises(ValueError, match="got 'attention'"):
    sharded_lightul(MF, attention, split)
  with pytest.raises(ValueError, match="neumf's is not"):
    sharded_lightul(models.neumf(), MEAN, split)
  with pytest.raises(ValueError, match="trains the base tables"):
    sharded_lightul(MF, MEAN, split, released)
  forget = some(state, [0])
  with pytest.raises(ValueError, match="trains the base tables"):
    unlearn(KEY, MF, state, forget, released)
  with pytest.raises(ValueError, match="got 'attention'"):
    unlearn(KEY, MF, state.replace(aggregator={"kernel": jnp.zeros(2)}), forget, quick())
  with pytest.raises(ValueError, match="way='pmap'"):
    unlearn(KEY, MF, state, forget, quick(), way="pmap")
  with pytest.raises(ValueError, match="not"):
    unlearn(KEY, MF, unlearn(KEY, MF, state, forget, quick()).state, forget, quick())
  broken = {**state.params[1], "user": state.params[1]["user"].at[3, 2].set(jnp.nan)}
  with pytest.raises(ValueError, match="finite values in params"):
    unlearn(KEY, MF, state.replace(params=(state.params[0], broken, state.params[2])), forget, quick())
