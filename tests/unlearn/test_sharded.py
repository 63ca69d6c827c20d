"""Exactness of the retraining family, bit by bit, for every method and base model."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import models, partition, shards
from jaxunlearn.aggregate import AggregateConfig
from jaxunlearn.base import Embeddings
from jaxunlearn.exactness import verify_exact
from jaxunlearn.metrics import ranking
from jaxunlearn.requests import Request
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn import _sharded
from jaxunlearn.unlearn.grapheraser import GraphEraserConfig, grapheraser
from jaxunlearn.unlearn.laser import LASERConfig, laser
from jaxunlearn.unlearn.receraser import RecEraserConfig, receraser
from jaxunlearn.unlearn.retrain import retrain
from jaxunlearn.unlearn.sisa import SISAConfig, sisa
from tests.small import random_pairs

KEY = jax.random.key(3)
TRAIN = TrainConfig(num_epochs=3, batch_size=32, learning_rate=0.02)
QUICK = TrainConfig(num_epochs=2, batch_size=128, learning_rate=0.01)
MODELS = {
  "bprmf": models.bprmf(models.BPRMFConfig(embedding_dim=8)),
  "wmf": models.wmf(models.WMFConfig(embedding_dim=8)),
  "lightgcn": models.lightgcn(models.LightGCNConfig(embedding_dim=8, num_layers=2)),
  "neumf": models.neumf(models.NeuMFConfig(embedding_dim=4, hidden=(8, 4))),
}


def given_vectors(key, interactions):
  """Vectors that depend on the key alone: pre-training costs a test more than it tells."""
  user_key, item_key = jax.random.split(key)
  return Embeddings(
    jax.random.normal(user_key, (interactions.num_users, 4)), jax.random.normal(item_key, (interactions.num_items, 4))
  )


def attention(**changes):
  return AggregateConfig(kind="attention", attention_dim=4, train=QUICK, **changes)


METHODS = {
  "sisa": lambda model: sisa(model, TRAIN, SISAConfig(num_shards=4)),
  "sisa_users": lambda model: sisa(model, TRAIN, SISAConfig(num_shards=4, unit="user")),
  "sisa_slices": lambda model: sisa(model, TRAIN, SISAConfig(num_shards=3, num_slices=3)),
  "grapheraser": lambda model: grapheraser(
    model,
    TRAIN,
    GraphEraserConfig(num_shards=4, aggregate=AggregateConfig(kind="static", train=QUICK)),
    vectors=given_vectors,
  ),
  "receraser": lambda model: receraser(
    model, TRAIN, RecEraserConfig(num_shards=4, aggregate=attention()), vectors=given_vectors
  ),
  "laser": lambda model: laser(model, TRAIN, LASERConfig(num_groups=3)),
}
ALL = [(method, name) for method in METHODS for name in MODELS]
# Shards of whole users, the attention combined with their own scores: for inner products; one model shows it.
METHODS["receraser_combined"] = lambda model: receraser(
  model,
  TRAIN,
  RecEraserConfig(num_shards=4, partition="ubp-pairs", aggregate=dataclasses.replace(attention(), kind="combined")),
  vectors=given_vectors,
)
METHODS["laser_own_graph"] = lambda model: laser(model, TRAIN, LASERConfig(num_groups=3, graph="own"))
METHODS["receraser_users"] = lambda model: receraser(
  model, TRAIN, RecEraserConfig(num_shards=4, partition="random-users", aggregate=attention())
)
ALL += [("receraser_combined", "bprmf"), ("laser_own_graph", "lightgcn")]


@pytest.fixture(scope="module")
def fitted():
  cache = {}

  def get(method, name):
    if (method, name) not in cache:
      unlearner = METHODS[method](MODELS[name])
      cache[method, name] = unlearner, unlearner.fit(KEY, random_pairs())
    return cache[method, name]

  return get


def equal(a, b):
  a, b = jax.tree.leaves(a), jax.tree.leaves(b)
  return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def some(data, *rows):
  keep = np.zeros(len(data), bool)
  keep[list(rows)] = True
  return data.select(keep)


@pytest.mark.parametrize(("method", "name"), ALL)
def test_a_request_is_bitwise_training_from_scratch_without_the_pairs(method, name, fitted):
  unlearner, state = fitted(method, name)
  new = unlearner.unlearn(KEY, state, some(state.interactions, 5, 6, 200)).state
  report = verify_exact(KEY, unlearner, new)
  assert report.exact and report.num_arrays > 5, str(report)
  assert not equal(new, state)
  # The check sees a single bit: one number of one array changed in the last place.
  leaves, structure = jax.tree.flatten(new)
  at = next(i for i, leaf in enumerate(leaves) if np.issubdtype(np.asarray(leaf).dtype, np.floating))
  damaged = np.array(leaves[at])
  damaged.flat[0] = np.nextafter(damaged.flat[0], np.float32(9))
  broken = jax.tree.unflatten(structure, [*leaves[:at], jnp.asarray(damaged), *leaves[at + 1 :]])
  assert not verify_exact(KEY, unlearner, broken).exact


@pytest.mark.parametrize(("method", "name"), ALL)
def test_sequences_equal_the_joint_request_in_any_order(method, name, fitted):
  unlearner, state = fitted(method, name)
  first, second = some(state.interactions, 3, 40), some(state.interactions, 41, 250)
  one_way = unlearner.unlearn(KEY, unlearner.unlearn(KEY, state, first).state, second).state
  other_way = unlearner.unlearn(KEY, unlearner.unlearn(KEY, state, second).state, first).state
  joint = unlearner.unlearn(KEY, state, some(state.interactions, 3, 40, 41, 250)).state
  assert equal(one_way, joint) and equal(other_way, joint)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["sisa", "grapheraser", "receraser"])
def test_untouched_shards_are_the_same_buffers(method, name, fitted):
  unlearner, state = fitted(method, name)
  result = unlearner.unlearn(KEY, state, some(state.interactions, 7))
  touched = int(state.partition.shard[7])
  assert result.info["num_shards_retrained"] == 1
  for shard in range(4):
    old, new = jax.tree.leaves(state.params[shard]), jax.tree.leaves(result.state.params[shard])
    same = [a is b for a, b in zip(old, new, strict=True)]
    assert not any(same) if shard == touched else all(same)


@pytest.mark.parametrize(("method", "name"), ALL)
def test_users_items_and_pairs_of_several_shards_are_one_request(method, name, fitted):
  unlearner, state = fitted(method, name)
  request = Request(pairs=[(int(state.interactions.user[0]), int(state.interactions.item[0]))], users=[5], items=[7])
  new = unlearner.unlearn(KEY, state, request).state
  assert not np.any(new.interactions.user == 5) and not np.any(new.interactions.item == 7)
  assert len(new.partition) == len(new.interactions)
  assert verify_exact(KEY, unlearner, new).exact
  assert np.all(np.isfinite(unlearner.scorer(new).scores(np.arange(40))))


@pytest.mark.parametrize("name", MODELS)
def test_whole_users_in_a_shard_by_hash_cost_a_user_one_shard(name, fitted):
  unlearner, state = fitted("sisa_users", name)
  result = unlearner.unlearn(KEY, state, Request(users=[5]))
  (shard,) = np.unique(state.partition.shard[state.interactions.user == 5])
  assert result.info["num_shards_retrained"] == 1 < np.unique(state.partition.shard).size
  first = [[jax.tree.leaves(part)[0] for part in each.params] for each in (state, result.state)]
  assert [old is new for old, new in zip(*first, strict=True)] == [k != shard for k in range(4)]


@pytest.mark.parametrize("method", ["sisa_slices", "sisa_users", "receraser_users"])
def test_without_a_condition_hashed_shards_equal_their_own_fit_on_the_retained_pairs(method):
  unlearner, data = METHODS[method](MODELS["bprmf"]), random_pairs()
  forget = some(data, 0, 100, 101, 300)
  state = unlearner.unlearn(KEY, unlearner.fit(KEY, data), forget).state
  assert equal(state, unlearner.fit(KEY, data.without(forget)))
  assert verify_exact(KEY, unlearner, state).derived == []


def test_a_partition_from_vectors_is_reported():
  unlearner = METHODS["receraser"](MODELS["bprmf"])
  report = verify_exact(KEY, unlearner, unlearner.fit(KEY, random_pairs()))
  assert report.derived == ["partition.shard (inbp)"] and "random" in report.advice and "derived" in str(report)


def test_verifying_an_approximate_method_is_refused(fitted):
  unlearner, state = fitted("sisa", "bprmf")
  with pytest.raises(ValueError, match="exact method"):
    verify_exact(KEY, unlearner._replace(refit=None, guarantee="approximate"), state)
  exact = retrain(MODELS["bprmf"], TRAIN)
  assert verify_exact(KEY, exact, exact.fit(KEY, random_pairs())).exact


@pytest.mark.parametrize("name", ["bprmf", "lightgcn"])
@pytest.mark.parametrize("shared", [False, True])
def test_shared_positives_tell_other_shards_of_the_forgotten_pairs(name, shared):
  unlearner = sisa(MODELS[name], TRAIN, SISAConfig(num_shards=4, shared_positives=shared))
  data = random_pairs()
  forget = some(data, 20, 21, 22)
  touched = set(unlearner.fit(KEY, data).partition.shard[20:23].tolist())
  state = unlearner.unlearn(KEY, unlearner.fit(KEY, data), forget).state
  never = unlearner.fit(KEY, data.without(forget))  # a pair's shard is a hash of its ids: the same partition
  clean = [equal(one, other) for one, other in zip(state.params, never.params, strict=True)]
  assert 0 < len(touched) < 4
  assert clean == [not shared or shard in touched for shard in range(4)]
  assert (unlearner.guarantee, unlearner.refit is None) == (("approximate", True) if shared else ("exact", False))


def test_slices_resume_from_the_last_clean_stage(fitted):
  unlearner, state = fitted("sisa_slices", "bprmf")
  for wanted in range(3):
    row = int(np.flatnonzero(state.slices == wanted)[0])
    result = unlearner.unlearn(KEY, state, some(state.interactions, row))
    assert result.info["stages_retrained"] == 3 - wanted
    shard = int(state.partition.shard[row])
    kept = [equal(a, b) for a, b in zip(state.stages[shard], result.state.stages[shard], strict=True)]
    assert kept == [stage < wanted for stage in range(2)]


def test_laser_keeps_the_checkpoints_before_the_first_touched_group(fitted):
  unlearner, state = fitted("laser", "bprmf")
  row = int(np.flatnonzero(state.partition.shard == 1)[0])
  new = unlearner.unlearn(KEY, state, some(state.interactions, row)).state
  same = [equal(a, b) for a, b in zip(state.checkpoints, new.checkpoints, strict=True)]
  assert same == [True, False, False]


def test_lasers_checkpoint_equals_a_run_cut_off_after_that_group(fitted):
  unlearner, state = fitted("laser", "lightgcn")
  data, groups = state.interactions, state.partition
  cut = laser(
    MODELS["lightgcn"],
    TRAIN,
    groups=lambda key, pairs: dataclasses.replace(groups.select(groups.shard < 2), num_shards=2),
  )
  early = cut.fit(KEY, data.select(groups.shard < 2))
  assert equal(early.checkpoints, state.checkpoints[:2])


def test_laser_of_own_graphs_cuts_off_all_but_the_last_group(fitted):
  """A user of an earlier group is served a third of their row: the mean over three layers, of which two are zero."""
  model = MODELS["lightgcn"]
  unlearner, state = fitted("laser_own_graph", "lightgcn")
  last = state.interactions.select(state.partition.shard == 2)
  served, row = unlearner.scorer(state).vectors.user, state.checkpoints[-1]["user"]
  earlier = np.setdiff1d(state.interactions.user, last.user)
  assert earlier.size and last.user.size
  np.testing.assert_allclose(served[earlier], row[earlier] / 3, rtol=1e-6)
  np.testing.assert_array_equal(served, model.encode(state.checkpoints[-1], model.context(last)).user)
  # A group that is forgotten as a whole is not served an empty graph: the one before it is the last that trained.
  new = unlearner.unlearn(KEY, state, Request(users=np.unique(last.user))).state
  before = new.interactions.select(new.partition.shard == 1)
  np.testing.assert_array_equal(
    unlearner.scorer(new).vectors.user, model.encode(new.checkpoints[-1], model.context(before)).user
  )


@pytest.mark.parametrize("method", ["sisa", "receraser"])
def test_early_stopping_by_shard_is_exact_too(method):
  train = dataclasses.replace(TRAIN, num_epochs=12, eval_every=2, patience=1, validation_fraction=0.2)
  if method == "sisa":
    unlearner = sisa(MODELS["bprmf"], train, SISAConfig(num_shards=3, early_stopping=True))
  else:
    config = RecEraserConfig(num_shards=3, aggregate=attention(), early_stopping=True)
    unlearner = receraser(MODELS["bprmf"], train, config, vectors=given_vectors)
  state = unlearner.fit(KEY, random_pairs())
  traced = ranking._evaluate._cache_size()
  gone = state.interactions.select(np.isin(state.interactions.user, [3, 4, 8, 11, 17]))
  new = unlearner.unlearn(KEY, state, gone).state
  assert ranking._evaluate._cache_size() == traced  # a shard that other users judge is ranked by the same program
  assert verify_exact(KEY, unlearner, new).exact


@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.7])
def test_what_a_shard_holds_out_leaves_every_row_a_pair_to_train_on(fraction):
  """An untrained row would be served as it was drawn; its user has a pair in the shard and is heard."""
  data = random_pairs(num_users=2000, num_items=1500, num_pairs=5000)  # many have one or two pairs
  (train,), (held,) = _sharded.hold_out(KEY, [data], fraction)
  assert train.union(held).digest() == data.digest() and len(train) + len(held) == len(data)
  assert np.array_equal(train.user_degrees() > 0, data.user_degrees() > 0)
  assert np.array_equal(train.item_degrees() > 0, data.item_degrees() > 0)
  wide = random_pairs(num_users=200, num_items=300, num_pairs=30_000)
  (_,), (held,) = _sharded.hold_out(KEY, [wide], fraction)
  assert abs(len(held) / len(wide) - fraction) < 0.02


@pytest.mark.parametrize("graph_of", ["seen", "own"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_laser_trains_a_group_on_what_it_may_see(early_stopping, graph_of, monkeypatch):
  """Held-out pairs are in no graph that they judge, and arrays are as long as a group, not as the data."""
  module, seen = importlib.import_module("jaxunlearn.unlearn.laser"), []

  def spy(keys, model, parts, train, *, graphs, validation, capacity, graph_capacity, **rest):
    seen.append((parts[0], graphs[0], None if validation is None else validation[0], capacity, graph_capacity))
    return shards.train_shards(
      keys, model, parts, train, graphs=graphs, validation=validation, capacity=capacity,
      graph_capacity=graph_capacity, **rest,
    )  # fmt: skip

  monkeypatch.setattr(module, "train_shards", spy)
  data = random_pairs(num_users=60, num_items=50, num_pairs=1400)
  config = LASERConfig(num_groups=4, early_stopping=early_stopping, graph=graph_of)
  laser(MODELS["lightgcn"], TRAIN, config).fit(KEY, data)
  assert len(seen) == 4
  assert [len(graph) > len(part) for part, graph, *_ in seen] == [False] + 3 * [graph_of == "seen"]
  for part, graph, held, capacity, graph_capacity in seen:
    assert graph.contains(part).all() and (capacity, graph_capacity) == (512, 2048)
    assert (held is None) != early_stopping
    assert held is None or (len(held) and not graph.contains(held).any())


def test_groups_and_shards_of_other_pairs_are_refused():
  data = random_pairs()
  half = data.select(np.arange(len(data)) % 2 == 0)

  def other(key, interactions):
    return partition.random(key, half, 2)

  for unlearner in (laser(MODELS["bprmf"], TRAIN, groups=other), _sharded.sharded(
    MODELS["bprmf"], _sharded.ShardConfig(train=TRAIN), other, name="ours",
  )):  # fmt: skip
    with pytest.raises(ValueError, match=f"{len(half)}"):
      unlearner.fit(KEY, data)


@pytest.mark.parametrize("name", ["bprmf", "wmf", "lightgcn"])
def test_a_second_request_of_another_size_does_not_trace_again(name, fitted):
  unlearner, state = fitted("receraser", name)
  state = unlearner.unlearn(KEY, state, some(state.interactions, 1)).state
  before = shards._train_one._cache_size()
  unlearner.unlearn(KEY, state, some(state.interactions, *range(30, 60)))
  assert shards._train_one._cache_size() == before


def test_the_forgotten_pairs_are_in_no_array_of_the_state(fitted):
  unlearner, state = fitted("sisa_slices", "lightgcn")
  forget = some(state.interactions, 9, 90, 190)
  new = unlearner.unlearn(KEY, state, forget).state
  assert not new.interactions.contains(forget).any()
  assert len(new.partition) == len(new.slices) == len(new.interactions) == len(state.interactions) - 3
  gone = unlearner.unlearn(KEY, state, Request(users=[4])).state
  scores = unlearner.scorer(gone)
  fresh = unlearner.fit(KEY, gone.interactions)
  np.testing.assert_array_equal(scores.scores(np.asarray([4])), unlearner.scorer(fresh).scores(np.asarray([4])))


def test_stage_epochs_do_the_work_of_one_run():
  assert _sharded.stage_epochs(30, 1) == 30
  assert _sharded.stage_epochs(30, 2) * (1 + 2) / 2 == 30
  assert _sharded.stage_epochs(1, 9) == 1


@pytest.mark.parametrize(
  ("make", "match"),
  [
    (lambda: RecEraserConfig(partition="inpb"), "inbp"),
    (lambda: GraphEraserConfig(partition="kmeans"), "bekm"),
    (lambda: SISAConfig(unit="users"), "unit"),
    (lambda: SISAConfig(num_slices=0).shard_config(TRAIN, None), "num_slices"),
    (lambda: SISAConfig(num_slices=2, early_stopping=True).shard_config(TRAIN, None), "num_slices=1"),
    (lambda: LASERConfig(num_groups=0), "num_groups"),
    (lambda: LASERConfig(graph="all"), "graph"),
    (lambda: laser(MODELS["bprmf"], TRAIN, LASERConfig(graph="own")), 'graph="seen" for bprmf'),
    (lambda: sisa(MODELS["bprmf"], TRAIN, SISAConfig(num_shards=0)), "num_shards"),
    (lambda: sisa(MODELS["wmf"], TRAIN, SISAConfig(shared_positives=True)), "wmf"),
  ],
)
def test_bad_settings_are_named(make, match):
  with pytest.raises(ValueError, match=match):
    make()


def test_a_state_of_another_configuration_is_not_misread():
  """With another number of slices a request retrained nothing, or left pairs out, and said nothing of it."""
  data, key, train = random_pairs(), jax.random.key(0), TrainConfig(num_epochs=1, batch_size=64)
  model = models.bprmf(models.BPRMFConfig(embedding_dim=4))
  sliced, plain = (sisa(model, train, SISAConfig(num_shards=2, num_slices=slices)) for slices in (3, 1))
  state = sliced.fit(key, data)
  some = Request(pairs=[(int(data.user[0]), int(data.item[0]))])
  for call in (lambda: plain.unlearn(key, state, some), lambda: plain.scorer(state), lambda: plain.refit(key, state)):
    with pytest.raises(ValueError, match="num_slices=1 and an aggregator of kind 'mean'.*got one of num_slices=3"):
      call()
  weighted = grapheraser(model, train, GraphEraserConfig(num_shards=2))
  with pytest.raises(ValueError, match="kind 'mean', as sisa is configured here, got one of num_slices=1 and 'static'"):
    plain.scorer(weighted.fit(key, data))
  with pytest.raises(ValueError, match="Expected a ShardedState, which sisa fits, got ModelState"):
    plain.unlearn(key, retrain(model, train).fit(key, data), some)
  with pytest.raises(ValueError, match="Expected a LASERState, which laser fits, got ShardedState"):
    laser(model, train).unlearn(key, state, some)
  with pytest.raises(ValueError, match="sisa"):
    sisa(models.popularity(), train)


def test_what_a_partition_counted_over_all_pairs_does_not_outlive_a_request():
  data, key, train = random_pairs(), jax.random.key(0), TrainConfig(num_epochs=1, batch_size=64)
  method = grapheraser(
    models.bprmf(models.BPRMFConfig(embedding_dim=4)), train, GraphEraserConfig(num_shards=2, partition="blpa")
  )
  state = method.fit(key, data)
  assert state.partition.info["within"] > 0
  assert not method.unlearn(key, state, Request(users=[3])).state.partition.info
