"""Submodels that train on the rows they have pairs in: the same numbers as over whole tables, in smaller ones."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxunlearn import _own_rows, models, partition, shards
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.exactness import verify_exact
from jaxunlearn.shards import Placement, train_shards
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn import sisa
from tests.small import random_pairs
from tests.test_shards import equal

KEY = jax.random.key(0)
KEYS = [jax.random.fold_in(KEY, s) for s in range(4)]
MODELS = {
  "bprmf": models.bprmf(models.BPRMFConfig(embedding_dim=8)),
  "lightgcn": models.lightgcn(models.LightGCNConfig(embedding_dim=8, num_layers=2)),
}


def config(optimizer="adam"):
  return TrainConfig(num_epochs=3, batch_size=64, learning_rate=0.02, optimizer=optimizer, negatives="present")


@pytest.fixture(scope="module")
def data():
  """3,000 pairs over 34,000 rows: a shard of users has pairs in a thirtieth of them."""
  return random_pairs(num_users=8000, num_items=26000, num_pairs=3000)


@pytest.fixture
def heights(monkeypatch):
  """Of the tables that shards are trained on, as they are prepared."""
  seen = []
  prepare = shards.prepare_alike

  def spy(model, parts, *args, **kwargs):
    seen.extend((part.num_users, part.num_items) for part in parts)
    return prepare(model, parts, *args, **kwargs)

  monkeypatch.setattr(shards, "prepare_alike", spy)
  return seen


def by_user(data):
  return partition.random(jax.random.key(7), data, 4, unit="user").shards(data)


@pytest.mark.parametrize(("model", "optimizer"), [("bprmf", "adam"), ("bprmf", "adagrad"), ("lightgcn", "adam")])
def test_own_rows_give_what_whole_tables_give(model, optimizer, data, heights, monkeypatch):
  parts = by_user(data)
  own = train_shards(KEYS, MODELS[model], parts, config(optimizer))
  assert all(users <= 1024 and items <= 1024 for users, items in heights)
  monkeypatch.setattr(_own_rows, "MIN_ROWS", 10**9)
  whole = train_shards(KEYS, MODELS[model], parts, config(optimizer))
  assert heights[-1] == (8000, 26000)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), own.states, whole.states)
  assert equal(own.params, [state.average for state in own.states])


def test_a_row_without_a_pair_keeps_its_initialisation_to_the_bit(data):
  part = by_user(data)[0]
  fitted = train_shards(KEYS[:1], MODELS["bprmf"], [part], config()).params[0]
  fresh = MODELS["bprmf"].init(jax.random.fold_in(KEYS[0], 0), 8000, 26000)
  for name, degree in (("user", part.user_degrees()), ("item", part.item_degrees())):
    assert np.array_equal(fitted[name][degree == 0], fresh[name][degree == 0])


def test_which_shards_are_trained_together_does_not_change_a_bit(data):
  parts, model = by_user(data), MODELS["lightgcn"]
  every = train_shards(KEYS, model, parts, config()).params
  some = train_shards([KEYS[2]], model, [parts[2]], config(), like=parts).params
  assert equal(every[2], some[0])


def test_momentum_of_rows_that_a_later_part_lacks_still_moves_them(data, heights):
  """Adam goes on moving a row whose gradient was not 0 before, so a state that is gone on from is trained whole."""
  first, second = by_user(data)[:2]
  before = train_shards(KEYS[:1], MODELS["bprmf"], [first], config()).states
  after = train_shards(KEYS[:1], MODELS["bprmf"], [second], config(), start=before).states
  assert heights[-1] == (8000, 26000)
  moved = (first.user_degrees() > 0) & (second.user_degrees() == 0)
  assert (abs(after[0].params["user"] - before[0].params["user"])[moved].max(1) > 1e-3).mean() > 0.9


@pytest.mark.parametrize(
  ("model", "changes"),
  [
    ("bprmf", {"negatives": "all"}),  # any item is a negative
    ("bprmf", {"optimizer": "row_adam"}),  # costs by the batch
    ("wmf", {}),  # every item counts for every user
    ("neumf", {}),  # other tables, and a network
  ],
)
def test_what_reads_other_rows_trains_on_all_of_them(model, changes, data, heights):
  small = {"wmf": models.wmf(models.WMFConfig(embedding_dim=4)),
           "neumf": models.neumf(models.NeuMFConfig(embedding_dim=4, hidden=(4,)))}  # fmt: skip
  how = dataclasses.replace(config(), num_epochs=1, **changes)
  train_shards(KEYS[:1], {**MODELS, **small}[model], by_user(data)[:1], how)
  assert heights == [(8000, 26000)]


def test_shards_that_are_trained_at_once_do_not_share_a_height(data, heights):
  """It would depend on the pairs of the others, and a request would leave them trained at another one."""
  parts = [part.select(np.arange(len(part)) < 8) for part in by_user(data)[:2]]
  small = dataclasses.replace(config(), num_epochs=1)
  train_shards(KEYS[:2], MODELS["bprmf"], parts, small, placement=Placement(way="vmap"))
  assert heights == [(8000, 26000)] * 2


def test_a_model_that_is_not_ours_trains_on_all_rows(data, heights):
  """Its parameters may have rows by user or item that nobody knows of."""
  theirs = MODELS["bprmf"]._replace(name="theirs")
  train_shards(KEYS[:1], theirs, by_user(data)[:1], dataclasses.replace(config(), num_epochs=1))
  assert heights == [(8000, 26000)]


def test_a_shard_with_pairs_in_most_rows_trains_on_all_of_them(heights):
  rng = np.random.default_rng(0)
  dense = Interactions.from_pairs(
    rng.integers(0, 17000, 60000), rng.integers(0, 17000, 60000), num_users=17000, num_items=17000
  )
  train_shards(KEYS[:1], MODELS["bprmf"], [dense], dataclasses.replace(config(), num_epochs=1, batch_size=4096))
  assert heights == [(17000, 17000)]


def test_unlearning_is_exact_and_compiles_nothing_new(data, heights):
  """A small request leaves every height where it was, so it runs the programs of the fit."""
  unlearner = sisa.sisa(MODELS["lightgcn"], config(), sisa.SISAConfig(num_shards=3), progress=False)
  state = unlearner.fit(KEY, data)
  assert all(sum(pair) < 3000 for pair in heights)
  before = shards._train_one._cache_size()
  result = unlearner.unlearn(KEY, state, data.select(np.arange(len(data)) % 500 == 0))
  assert shards._train_one._cache_size() == before
  report = verify_exact(KEY, unlearner, result.state)
  assert report.exact, str(report)
