import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxunlearn import models, partition
from jaxunlearn.data.splits import hold_out
from jaxunlearn.shards import Placement, train_shards
from jaxunlearn.train import TrainConfig, fit
from tests.small import checkerboard, random_pairs

KEY = jax.random.key(0)
CONFIG = TrainConfig(num_epochs=3, batch_size=32, learning_rate=0.02)
MODELS = {
  "bprmf": models.bprmf(models.BPRMFConfig(embedding_dim=8)),
  "wmf": models.wmf(models.WMFConfig(embedding_dim=8)),
  "lightgcn": models.lightgcn(models.LightGCNConfig(embedding_dim=8, num_layers=2)),
  "neumf": models.neumf(models.NeuMFConfig(embedding_dim=4, hidden=(8, 4))),
}


def equal(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def shards_of(data, num_shards=4):
  keys = [jax.random.fold_in(jax.random.key(0), s) for s in range(num_shards)]
  return keys, partition.random(jax.random.key(77), data, num_shards).shards(data)


@pytest.mark.parametrize("name", MODELS)
def test_a_shard_is_what_training_on_its_pairs_alone_gives(name):
  keys, parts = shards_of(random_pairs())
  fitted = train_shards(keys, MODELS[name], parts, CONFIG)
  for key, part, params in zip(keys, parts, fitted.params, strict=True):
    alone = fit(key, MODELS[name], part, CONFIG).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), params, alone)


@pytest.mark.parametrize("name", MODELS)
def test_vmap_gives_what_map_gives(name):
  keys, parts = shards_of(random_pairs())
  one = train_shards(keys, MODELS[name], parts, CONFIG, placement=Placement(way="map"))
  all_at_once = train_shards(keys, MODELS[name], parts, CONFIG, placement=Placement(way="vmap"))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), one.params, all_at_once.params)


@pytest.mark.parametrize("way", ["map", "vmap"])
def test_which_shards_are_trained_together_does_not_change_a_bit(way):
  keys, parts = shards_of(random_pairs(), 6)
  placement, model = Placement(way=way), MODELS["bprmf"]
  every = train_shards(keys, model, parts, CONFIG, placement=placement).params
  for which in ([2], [0, 5], [1, 3, 4]):
    some = train_shards([keys[s] for s in which], model, [parts[s] for s in which], CONFIG, placement=placement).params
    assert all(equal(every[s], params) for s, params in zip(which, some, strict=True))


def test_an_empty_shard_keeps_its_initialisation():
  data = random_pairs()
  empty = data.select(np.zeros(len(data), bool))
  keys = [jax.random.fold_in(jax.random.key(0), s) for s in range(2)]
  fitted = train_shards(keys, MODELS["wmf"], [data, empty], CONFIG)
  fresh = MODELS["wmf"].init(jax.random.fold_in(keys[1], 0), data.num_users, data.num_items)
  assert equal(fitted.params[1], fresh) and fitted.num_epochs == [3, 0]


def test_early_stopping_ends_a_shard_while_others_go_on():
  data = checkerboard()
  train, held = hold_out(np.random.default_rng(0), data, 0.1)
  config = TrainConfig(num_epochs=30, batch_size=64, learning_rate=0.05, eval_every=5, patience=2)
  nothing = data.select(np.zeros(len(data), bool))
  keys = [jax.random.fold_in(jax.random.key(0), s) for s in range(2)]
  fitted = train_shards(keys, MODELS["bprmf"], [train, train], config, validation=[held, nothing])
  assert fitted.num_epochs[0] < 30 and fitted.num_epochs[1] == 30
  assert int(fitted.states[0].epoch) < 30 and int(fitted.states[1].epoch) == 30
  # What is returned is the best epoch's, which training for that many epochs gives.
  again = train_shards(keys[:1], MODELS["bprmf"], [train], dataclasses.replace(config, num_epochs=fitted.num_epochs[0]))
  assert equal(again.params[0], fitted.params[0])


def test_a_shard_that_diverges_is_named():
  keys, parts = shards_of(random_pairs())
  config = dataclasses.replace(CONFIG, learning_rate=1e30, optimizer="sgd", num_epochs=6)
  with pytest.raises(ValueError, match="diverged on shard 0:"):
    train_shards(keys, MODELS["bprmf"], parts, config)
  with pytest.raises(ValueError, match="diverged on shard 7:"):
    train_shards(keys[:2], MODELS["bprmf"], parts[:2], config, numbers=[7, 3])


def test_a_mesh_of_another_axis_is_refused():
  with pytest.raises(ValueError, match="axis 'shard'"):
    Placement(mesh=jax.make_mesh((1,), ("data",)))
  with pytest.raises(ValueError, match="map"):
    Placement(way="pmap")


EIGHT = """
import jax, numpy as np
from jaxunlearn._validate import check_finite
from tests import test_shards as t
from jaxunlearn.shards import Placement, train_shards
assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ("shard",))
keys, parts = t.shards_of(t.random_pairs(), 10)
for name, ways in {"bprmf": ("map", "vmap"), "wmf": ("vmap",), "lightgcn": ("vmap",)}.items():
  one = train_shards(keys, t.MODELS[name], parts, t.CONFIG, placement=Placement(way="map"))
  for way in ways:
    spread = train_shards(keys, t.MODELS[name], parts, t.CONFIG, placement=Placement(way=way, mesh=mesh))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), one.params, spread.params)
    same = t.equal(one.params, spread.params)
    print(name, way, "bitwise" if same else "close")
few = train_shards(keys[:3], t.MODELS["bprmf"], parts[:3], t.CONFIG, placement=Placement(way="map", mesh=mesh))
assert all(t.equal(a, b) for a, b in zip(few.params, train_shards(
  keys, t.MODELS["bprmf"], parts, t.CONFIG, placement=Placement(way="map", mesh=mesh)).params[:3], strict=True))
check_finite("params", [jax.device_put(np.ones(3), device) for device in jax.devices()])  # leaves of several devices
print("ok")
"""


def test_eight_devices_give_the_numbers_of_one():
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
  env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  run = subprocess.run([sys.executable, "-c", EIGHT], env=env, capture_output=True, text=True, timeout=600)
  assert run.returncode == 0 and run.stdout.strip().endswith("ok"), run.stdout + run.stderr[-3000:]
