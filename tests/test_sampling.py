import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxunlearn import models, sampling
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.epoch import TrainConfig, prepare
from tests.small import random_pairs

random_interactions = functools.partial(random_pairs, num_users=30, num_items=20, num_pairs=200)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 1024), seed=st.integers(0, 9))
def test_epoch_order_is_a_permutation(count, seed):
  order = np.asarray(sampling.epoch_order(jax.random.key(seed), jnp.int32(count), 1024))
  assert sorted(order[:count].tolist()) == list(range(count))
  assert not order[count:].any()


def test_epoch_order_does_not_depend_on_the_capacity():
  small = sampling.epoch_order(jax.random.key(1), jnp.int32(200), 256)
  large = sampling.epoch_order(jax.random.key(1), jnp.int32(200), 4096)
  np.testing.assert_array_equal(small[:200], large[:200])


def test_epoch_order_mixes_positions():
  # Over many keys each element is equally likely in each slot: chi-square, 16 × 16 table, 99.9 % quantile of χ²(225).
  keys = jax.random.split(jax.random.key(3), 800)
  orders = np.asarray(jax.vmap(lambda key: sampling.epoch_order(key, jnp.int32(16), 16))(keys))
  counts = np.stack([np.bincount(orders[:, slot], minlength=16) for slot in range(16)])
  statistic = np.sum((counts - 50.0) ** 2 / 50.0)
  assert statistic < 300, statistic


@pytest.mark.parametrize("count", [2**20, 2**20 - 1, 2**19 + 1])
def test_epoch_order_at_powers_of_two(count):
  order = np.asarray(sampling.epoch_order(jax.random.key(0), jnp.int32(count), 2**20))[:count]
  assert np.array_equal(np.bincount(order, minlength=count), np.ones(count))


def test_negatives_are_never_positives_and_uniform_over_the_rest():
  data = random_interactions()
  users = jnp.arange(data.num_users, dtype=jnp.int32)
  drawn = np.asarray(sampling.sample_negatives(jax.random.key(0), data.padded(), users, 4000))
  dense = data.to_csr().toarray() > 0
  for user in range(data.num_users):
    counts = np.bincount(drawn[user], minlength=data.num_items)
    assert not counts[dense[user]].any()
    expected = 4000 / (~dense[user]).sum()
    assert np.all(np.abs(counts[~dense[user]] - expected) < 6 * np.sqrt(expected))


def test_a_user_with_every_item_weighs_nothing():
  data = Interactions.from_pairs([0, 0, 0, 1], [0, 1, 2, 1], num_users=2, num_items=3)
  padded = data.padded()
  order = sampling.epoch_order(jax.random.key(0), padded.count, padded.capacity)
  batch = sampling.pairwise_batch(jax.random.key(1), padded, order, jnp.int32(0), batch_size=8, num_negatives=2)
  weight = np.asarray(batch.weight)
  assert weight.sum() == 1
  assert np.asarray(batch.user)[weight > 0].tolist() == [1]
  assert set(np.asarray(batch.negative)[weight > 0].ravel().tolist()) <= {0, 2}


def test_an_epoch_of_batches_visits_each_pair_once():
  data = random_interactions()
  padded = data.padded()
  order = sampling.epoch_order(jax.random.key(0), padded.count, padded.capacity)
  seen = []
  for step in range(-(-len(data) // 64)):
    batch = sampling.pairwise_batch(
      jax.random.key(step), padded, order, jnp.int32(step), batch_size=64, num_negatives=1
    )
    real = np.asarray(batch.weight) > 0
    seen += list(zip(np.asarray(batch.user)[real].tolist(), np.asarray(batch.positive)[real].tolist(), strict=True))
  assert sorted(seen) == list(zip(data.user.tolist(), data.item.tolist(), strict=True))


def test_user_batches_hold_all_pairs_of_all_users_once():
  data = random_interactions(num_users=37)
  strata, bound = sampling.user_strata(data, batch_size=8)
  shuffled = sampling.shuffle_strata(jax.random.key(5), strata)
  seen = []
  assert shuffled.shape[1] > strata.num_batches  # there is padding to leave alone
  for index in range(int(strata.num_batches)):
    batch = sampling.users_batch(data.padded(), shuffled[:, index], bound)
    real = np.asarray(batch.pair_weight) > 0
    users = np.asarray(batch.user)[np.asarray(batch.row)[real]]
    assert np.all(np.asarray(batch.weight)[np.asarray(batch.row)[real]] == 1)
    seen += list(zip(users.tolist(), np.asarray(batch.positive)[real].tolist(), strict=True))
  assert sorted(seen) == list(zip(data.user.tolist(), data.item.tolist(), strict=True))


def test_the_bound_of_user_batches_is_near_their_mean():
  rng = np.random.default_rng(0)
  degree = np.minimum(1 + rng.zipf(1.6, 400), 300)
  user = np.repeat(np.arange(400), degree)
  item = np.concatenate([rng.choice(300, d, replace=False) for d in degree])
  data = Interactions.from_pairs(user, item, num_users=400, num_items=300)
  strata, bound = sampling.user_strata(data, batch_size=32)
  mean = len(data) / int(strata.num_batches)
  assert bound <= (mean + degree.max()) * 1.25 + 64


def test_scaled_bits_are_the_exact_product_and_uniform():
  rng = np.random.default_rng(0)
  bits = np.concatenate([rng.integers(0, 2**32, 5000), [0, 2**32 - 1, 65535, 65536]]).astype(np.uint32)
  size = np.concatenate([rng.integers(1, 2**31, 5000), [1, 2**31 - 1, 65536, 40981]]).astype(np.int32)
  exact = (bits.astype(object) * size.astype(object)) >> 32
  np.testing.assert_array_equal(sampling._scaled(jnp.asarray(bits), jnp.asarray(size)), exact.astype(np.int64))


@pytest.mark.parametrize("avoid", [True, False])
def test_negatives_of_a_pool_are_its_items_and_no_positives(avoid):
  data = random_interactions()
  data = data.select((data.item % 3 == 0) | (data.item == 7))
  pool = sampling.present_items(data)
  order = sampling.epoch_order(jax.random.key(1), jnp.int32(len(data)), 256)
  batch = sampling.pairwise_batch(
    jax.random.key(2), data.padded(), order, jnp.int32(0), batch_size=256, num_negatives=50, avoid_positives=avoid,
    pool=pool,
  )  # fmt: skip
  real = np.asarray(batch.weight) > 0
  drawn = np.asarray(batch.negative)[real]
  assert set(drawn.ravel().tolist()) == set(data.item.tolist())
  user = np.broadcast_to(np.asarray(batch.user)[real][:, None], drawn.shape)
  pairs = set(zip(data.user.tolist(), data.item.tolist(), strict=True))
  hits = [(u, i) in pairs for u, i in zip(user.ravel().tolist(), drawn.ravel().tolist(), strict=True)]
  assert any(hits) != avoid


@pytest.mark.parametrize("negatives", ["all", "present"])
def test_negatives_avoid_the_known_pairs_too(negatives):
  known = random_interactions()
  known = Interactions.from_pairs(  # user 0 knows every item
    np.append(known.user[known.user > 0], np.zeros(20, int)), np.append(known.item[known.user > 0], np.arange(20)),
    num_users=30, num_items=20,
  )  # fmt: skip
  data = known.select((np.arange(len(known)) % 3 == 0) & (known.item > 4))
  prepared = prepare(models.bprmf(), data, TrainConfig(negatives=negatives), known=known)
  order = sampling.epoch_order(jax.random.key(1), jnp.int32(len(data)), 128)
  batch = sampling.pairwise_batch(
    jax.random.key(2), prepared.pairs, order, jnp.int32(0), batch_size=128, num_negatives=200, pool=prepared.pool,
    known=prepared.known,
  )  # fmt: skip
  weight = np.asarray(batch.weight)[: len(data)]
  user, drawn = np.asarray(batch.user)[: len(data)], np.asarray(batch.negative)[: len(data)]
  assert 0 < (user == 0).sum() < len(data) and np.array_equal(weight > 0, user != 0)
  absent = known.to_csr().toarray() == 0
  if negatives == "present":
    absent[:, np.setdiff1d(np.arange(20), data.item)] = False
  for one in np.unique(user[user != 0]):  # those that the user has no known pair with, and all of them
    assert set(drawn[user == one].ravel().tolist()) == set(np.flatnonzero(absent[one]).tolist())


@pytest.mark.parametrize(("model", "changes"), [("wmf", {}), ("bprmf", {"avoid_positives": False})])
def test_known_pairs_that_nothing_avoids_are_refused(model, changes):
  data = random_interactions()
  with pytest.raises(ValueError, match="which avoid pairs"):
    prepare(models.build(model, models.CONFIGS[model]()), data, TrainConfig(**changes), known=data)


@pytest.mark.parametrize(
  ("avoid_positives", "pooled", "shared"),
  [(True, False, False), (True, True, False), (False, True, False), (True, True, True)],
)
def test_an_epochs_negatives_are_those_of_its_steps(monkeypatch, avoid_positives, pooled, shared):
  known = random_interactions()
  data = known.select(np.arange(len(known)) % 2 == 0) if shared else known
  padded, key = data.padded(), jax.random.key(4)
  order = sampling.epoch_order(jax.random.key(0), padded.count, padded.capacity)
  monkeypatch.setattr(sampling, "_BLOCK_DRAWS", 4 * 48 * 2)  # steps do not fill the last block
  how = {"batch_size": 48, "num_negatives": 2, "avoid_positives": avoid_positives}
  how["pool"] = sampling.present_items(data) if pooled else None
  how["known"] = known.padded() if shared else None
  drawn = sampling.epoch_negatives(key, padded, order, **how)
  assert drawn.shape[0] % 4 != 0 and drawn.shape[0] * 48 >= padded.capacity
  for step in range(-(-len(data) // 48)):
    alone = sampling.pairwise_batch(jax.random.fold_in(key, step), padded, order, jnp.int32(step), **how)
    np.testing.assert_array_equal(drawn[step], alone.negative)
    given = sampling.pairwise_batch(key, padded, order, jnp.int32(step), **how, negative=drawn[step])
    for one, other in zip(given, alone, strict=True):
      np.testing.assert_array_equal(one, other)


def test_an_order_in_arrays_of_any_length_visits_every_pair_once():
  for capacity in (1, 3, 5, 100, 4865, 5000):
    order = sampling.epoch_order(jax.random.key(0), jnp.int32(capacity), capacity)
    np.testing.assert_array_equal(np.sort(order), np.arange(capacity))
  assert not sampling.epoch_order(jax.random.key(0), jnp.int32(0), 1 << 18).any()  # of an empty shard


def test_x64_draws_what_is_drawn_without():
  """Under x64 random bits are 64 wide by default: items were out of range, and nothing said so."""
  data, users = random_interactions(0), np.arange(30, dtype=np.int32)

  def draw():
    negatives = sampling.sample_negatives(jax.random.key(0), data.padded(), jnp.asarray(users), 8)
    return np.asarray(negatives), np.asarray(sampling.epoch_order(jax.random.key(1), jnp.int32(100), 128))

  single = draw()
  with jax.enable_x64(True):
    for a, b in zip(single, draw(), strict=True):
      np.testing.assert_array_equal(a, b)
