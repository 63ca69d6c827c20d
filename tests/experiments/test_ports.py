"""LightUL's ports against the library's methods with the same epochs for all groups, and the clusters they share."""

import jax
import numpy as np
import pytest

from experiments import _results, ports
from jaxunlearn import models
from jaxunlearn.aggregate import AggregateConfig
from jaxunlearn.data import datasets
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn import _sharded
from jaxunlearn.unlearn.laser import LASERConfig, laser
from tests import scripts
from tests.small import random_pairs

KEY = jax.random.key(3)
TRAIN = TrainConfig(num_epochs=2, batch_size=64, learning_rate=0.02)
MODELS = {
  "bprmf": models.bprmf(models.BPRMFConfig(embedding_dim=8)),
  "lightgcn": models.lightgcn(models.LightGCNConfig(embedding_dim=8, num_layers=2)),
}
DATA = random_pairs()


def blobs(num_groups=3):
  """Vectors of the users in clusters of unequal spread, and which of them each user is in: the tightest is 0."""
  rng = np.random.default_rng(0)
  label = rng.integers(0, num_groups, DATA.num_users)
  angle = 2 * np.pi * label / num_groups
  centre = 20.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
  return centre + 0.1 * 2.0 ** label[:, None] * rng.normal(size=(DATA.num_users, 2)), label


def test_clusters_are_those_of_the_users_most_cohesive_first():
  vectors, label = blobs(6)
  for seed in range(8):  # a start of k-means may be stuck, and numbers its clusters anyhow
    found = ports.clusters(np.random.default_rng(seed), vectors, DATA, 6)
    np.testing.assert_array_equal(found.shard, label[DATA.user])
  with pytest.raises(ValueError, match="3 different vectors .* shorten --group_epochs"):
    ports.clusters(np.random.default_rng(1), np.zeros_like(vectors), DATA, 3)


@pytest.mark.parametrize("name", MODELS)
def test_with_equal_epochs_they_are_the_librarys(name):
  groups = ports.clusters(np.random.default_rng(1), blobs()[0], DATA, 3)
  parts = groups.shards(DATA)
  own = LASERConfig(num_groups=3, graph="own" if name == "lightgcn" else "seen")
  unlearner = laser(MODELS[name], TRAIN, own, groups=lambda key, pairs: groups)
  wanted = unlearner.scorer(unlearner.fit(KEY, DATA)).vectors
  found = ports.serve_laser(KEY, MODELS[name], TRAIN, parts, [2, 2, 2]).vectors
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  other = ports.serve_laser(KEY, MODELS[name], TRAIN, parts, [2, 2, 1]).vectors
  assert not np.array_equal(other.user, wanted.user)

  aggregate = AggregateConfig(transfer=False, mask_absent=False, attention_dim=4, train=TRAIN)
  config = _sharded.ShardConfig(train=TRAIN, aggregate=aggregate)
  state = _sharded.fit_sharded(KEY, MODELS[name], DATA, groups, config)
  wanted = _sharded.sharded_scorer(MODELS[name], config, state).vectors
  how = {"data": DATA, "aggregate": aggregate}
  found = ports.serve_receraser(KEY, MODELS[name], TRAIN, parts, [2, 2, 2], **how).vectors
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  other = ports.serve_receraser(KEY, MODELS[name], TRAIN, parts, [2, 1, 2], **how).vectors
  assert not np.array_equal(other.user, wanted.user)


def test_a_port_is_run_beside_an_original_resumed_and_refused(tmp_path):
  """What is forgotten is not trained on: the clusters hold the retained pairs alone."""
  command = "ports --dataset=synthetic --method=receraser --epochs=1 --attention_epochs=1 --out=runs/ports"
  done = scripts.run(f"{command} --group_epochs=2,1", tmp_path)
  assert done.returncode == 0, done.stderr
  folder = tmp_path / "runs/ports/bprmf"
  result = _results.load_results(folder / "receraser-port")[0]
  assert result["config"]["group_epochs"] == [2, 1] and not result["config"]["aggregate"]["transfer"]
  assert (folder / "original/seed0/result.json").exists() and "RecEraser (port)" in done.stdout
  data = datasets.load("synthetic").train
  assert sum(result["info"]["pairs_of_groups"]) == len(data) - round(0.01 * len(data))
  stamp = (folder / "receraser-port/seed0/result.json").stat().st_mtime_ns
  again = scripts.run(f"{command} --group_epochs=2,1 --quiet", tmp_path)
  assert (again.returncode, again.stdout) == (0, "")
  assert (folder / "receraser-port/seed0/result.json").stat().st_mtime_ns == stamp
  other = scripts.run(f"{command} --group_epochs=1,1", tmp_path)
  assert other.returncode == 1 and "config.group_epochs" in other.stderr and "--overwrite" in other.stderr
