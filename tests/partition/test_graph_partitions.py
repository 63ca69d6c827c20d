"""BLPA, BEKM and LASER's groups on graphs whose communities are known."""

import importlib
import tracemalloc

import jax
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from jaxunlearn import partition
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.partition._types import draw_distinct, host_rng
from jaxunlearn.partition.grapheraser import accept_moves
from jaxunlearn.partition.laser import hypergraph_embedding, spread
from tests.partition.twins import naive_accept, naive_ubp
from tests.small import random_pairs


def communities(seed=0, num_groups=4, users=30, items=25, inside=0.5, outside=0.05):
  """Users and items dealt to groups; a pair with probability `inside` or `outside`: of all, or one a user group."""
  rng = np.random.default_rng(seed)
  user_group, item_group = rng.permutation(num_groups * users) % num_groups, np.arange(num_groups * items) % num_groups
  own, other = (np.broadcast_to(c, num_groups)[user_group][:, None] for c in (inside, outside))
  chance = np.where(user_group[:, None] == item_group[None, :], own, other)
  user, item = np.nonzero(rng.random(chance.shape) < chance)
  return Interactions.from_pairs(user, item, num_users=len(user_group), num_items=len(item_group)), user_group


def item_modularity(pairs, shard, num_shards):
  """Pairs of one item in one shard, against as many as by chance: Σ over shards and items of squared shares."""
  counts = np.zeros((num_shards, pairs.num_items))
  np.add.at(counts, (shard, pairs.item), 1)
  return np.sum((counts / counts.sum(0)) ** 2 * counts.sum(0)) / counts.sum()


@pytest.mark.parametrize("seed", range(20))
def test_moves_are_accepted_round_by_round(seed):
  rng = np.random.default_rng(seed)
  num_shards = int(rng.integers(1, 6))
  size = int(rng.integers(0, 60))
  wanted, source = rng.integers(0, num_shards, (2, size))
  count, room = rng.integers(0, 5, size), rng.integers(0, 4, num_shards)
  got, left = accept_moves(wanted, count, source, room)
  want, want_left = naive_accept(wanted.tolist(), count.tolist(), source.tolist(), room)
  assert got.tolist() == want and left.tolist() == want_left


def test_blpa_finds_planted_communities_under_the_cap():
  pairs, user_group = communities()
  blpa = partition.blpa(jax.random.key(0), pairs, 4, slack=0.05)
  random = partition.random(jax.random.key(0), pairs, 4, unit="user")
  assert item_modularity(pairs, blpa.shard, 4) > 1.3 * item_modularity(pairs, random.shard, 4)
  assert blpa.info["within"] > 2 * 0.25
  assert blpa.info["still"] and blpa.derived_from == "pairs"
  assert all(len(set(blpa.shard[pairs.user == u].tolist())) == 1 for u in range(pairs.num_users))
  counts = [np.bincount(user_group[np.unique(s.user)], minlength=4) for s in blpa.shards(pairs)]
  assert sum(c.max() for c in counts) > 0.5 * pairs.num_users


def naive_blpa(pairs, num_shards, label, rng, cap, passes):
  """Neighbour counts by a loop over the pairs, then rounds of acceptance; the random ties are drawn alike."""
  users, items = sorted(set(pairs.user.tolist())), sorted(set(pairs.item.tolist()))
  edges = [(users.index(u), len(users) + items.index(i)) for u, i in zip(pairs.user, pairs.item, strict=True)]
  label = label.tolist()
  for _ in range(passes):
    counts = [[0] * num_shards for _ in label]
    for a, b in edges:
      counts[a][label[b]] += 1
      counts[b][label[a]] += 1
    noise = rng.random((len(label), num_shards), np.float32)
    wanted = [max(range(num_shards), key=lambda k, n=n: (counts[n][k], noise[n][k])) for n in range(len(label))]
    mover = [n for n, k in enumerate(wanted) if counts[n][k] > counts[n][label[n]]]
    room = [cap - label.count(k) for k in range(num_shards)]
    best = [counts[n][wanted[n]] for n in mover]
    accepted, _ = naive_accept([wanted[n] for n in mover], best, [label[n] for n in mover], room)
    for n, yes in zip(mover, accepted, strict=True):
      label[n] = wanted[n] if yes else label[n]
    assert max(label.count(k) for k in range(num_shards)) <= cap
  return [label[a] for a, _ in edges]


@pytest.mark.parametrize("passes", [1, 2, 5])
@pytest.mark.parametrize("slack", [0.0, 0.005, 0.1])
def test_blpa_is_label_propagation_under_the_cap(passes, slack):
  pairs = communities(seed=1, users=12, items=9)[0]
  got = partition.blpa(jax.random.key(2), pairs, 4, slack=slack, max_passes=passes)
  nodes = len(np.unique(pairs.user)) + len(np.unique(pairs.item))
  cap = int(np.ceil(nodes / 4 + slack * (nodes - nodes / 4)))
  assert got.info["cap"] == cap
  rng = host_rng(jax.random.key(2))
  label = rng.permutation(nodes) % 4
  assert got.shard.tolist() == naive_blpa(pairs, 4, label, rng, cap, got.info["passes"])


def test_blpa_leaves_out_who_has_no_pair_and_is_determined_by_the_key():
  pairs, _ = communities()
  wide = Interactions(pairs.user, pairs.item, pairs.num_users + 50, pairs.num_items + 70)
  a, b, c, d = (partition.blpa(jax.random.key(s), p, 4) for s, p in ((0, pairs), (0, wide), (0, pairs), (1, pairs)))
  np.testing.assert_array_equal(a.shard, b.shard)
  np.testing.assert_array_equal(a.shard, c.shard)
  assert (a.shard != d.shard).any()


@pytest.mark.parametrize("num_shards", [1, 3, 5])
def test_bekm_is_balanced_kmeans_of_users_and_items(num_shards):
  pairs = random_pairs(num_users=60, num_pairs=200)
  rng = np.random.default_rng(0)
  p, q = rng.normal(size=(60, 5)).astype(np.float32), rng.normal(size=(30, 5)).astype(np.float32)
  got = partition.bekm(jax.random.key(num_shards), pairs, p, q, num_shards, max_iterations=4)
  users, items = np.unique(pairs.user), np.unique(pairs.item)
  points = np.concatenate([p[users], q[items]])
  even = len(points) / num_shards
  cap = int(np.ceil(even + 0.005 * (len(points) - even)))
  first = np.asarray(draw_distinct(jax.random.key(num_shards), len(points), num_shards))
  want, passes = naive_ubp(points, first, cap, 4)
  assert got.shard.tolist() == [want[np.searchsorted(users, u)] for u in pairs.user]
  assert (got.info["cap"], got.info["iterations"]) == (cap, passes) and got.derived_from == "vectors"
  item_shard = [want[len(users) + np.searchsorted(items, i)] for i in pairs.item]
  assert got.info["within"] == pytest.approx(np.mean(got.shard == item_shard))


@pytest.mark.parametrize("restarts", [300, 1])
def test_the_hypergraph_embedding_spans_the_leading_eigenvectors(restarts, monkeypatch):
  """By Lanczos iteration, and by subspace iteration where that finds no end."""
  module, eigen, ended = importlib.import_module("jaxunlearn.partition.laser"), scipy.sparse.linalg.eigsh, []

  def watched(*args, **kwargs):
    found = eigen(*args, **kwargs)
    ended.append(True)
    return found

  monkeypatch.setattr(module, "MAX_RESTARTS", restarts)
  monkeypatch.setattr(scipy.sparse.linalg, "eigsh", watched)
  pairs = random_pairs(num_pairs=300)
  incidence = pairs.to_csr()[np.unique(pairs.user)][:, np.unique(pairs.item)]
  h = incidence.toarray().astype(np.float64)
  theta = np.diag(h.sum(1) ** -0.5) @ h @ np.diag(1 / h.sum(0)) @ h.T @ np.diag(h.sum(1) ** -0.5)
  values, basis = np.linalg.eigh(theta)
  assert values[-1] == pytest.approx(1.0)
  want = basis[:, -5:-1]
  want /= np.linalg.norm(want, axis=1, keepdims=True)
  got = hypergraph_embedding(incidence, 4, np.random.default_rng(0))
  assert ended == ([True] if restarts > 1 else [])
  np.testing.assert_allclose(got @ got.T, want @ want.T, atol=1e-5 if ended else 0.02)  # equal up to a rotation


def test_laser_groups_data_in_many_pieces():
  """Some 500 pieces, where Lanczos iteration raised "No convergence" after a minute: the value 1 is as often there."""
  pairs = random_pairs(num_users=1000, num_items=4000, num_pairs=1200)
  parts = partition.laser(jax.random.key(0), pairs, 3)
  _, first = np.unique(pairs.user, return_index=True)
  assert np.ptp(np.bincount(parts.shard[first])) <= 1 and np.array_equal(
    parts.shard, partition.laser(jax.random.key(0), pairs, 3).shard
  )


@pytest.mark.parametrize("blocks", [5, 1])
def test_laser_gives_the_same_groups_of_blocks_each_time(blocks):
  """Lanczos iteration goes on from a drawn vector there, once SciPy's own; of one block nothing is left to find."""
  user, item = np.divmod(np.arange(20 * blocks * 8), 8)
  pairs = Interactions.from_pairs(user, item + 8 * (user // 20))
  first = partition.laser(jax.random.key(3), pairs, 3)
  for _ in range(2):
    assert np.array_equal(first.shard, partition.laser(jax.random.key(3), pairs, 3).shard)


def test_laser_groups_a_handful_of_users():
  pairs = random_pairs(num_users=6, num_items=5, num_pairs=20)  # fewer than the 16 vectors that it would take
  parts = partition.laser(jax.random.key(0), pairs, 2)
  assert parts.info["dim"] == min(len(np.unique(pairs.user)), len(np.unique(pairs.item))) - 1


def test_spread_is_the_mean_over_pairs_of_members():
  rng = np.random.default_rng(0)
  points, group = 3 + rng.normal(size=(40, 3)), rng.integers(0, 4, 40)
  group[group == 3] = 2
  group[7] = 3  # alone
  inertia, between = spread(points, group, 5)
  for k, got in enumerate(between):
    own = points[group == k]
    assert inertia[k] == pytest.approx(np.sum((own - own.mean(0)) ** 2) if len(own) else 0.0)
    apart = [np.sum((a - b) ** 2) for i, a in enumerate(own) for j, b in enumerate(own) if i != j]
    assert got == pytest.approx(np.mean(apart)) if apart else got == np.inf


def test_laser_finds_planted_groups_equal_and_most_cohesive_first():
  noise = np.asarray([0.12, 0.01, 0.07, 0.03])  # the more a group strays, the farther apart its members' vectors
  pairs, user_group = communities(num_groups=4, users=40, items=40, inside=0.6, outside=noise)
  parts = partition.laser(jax.random.key(0), pairs, 4, dim=3)
  of_user = np.asarray([parts.shard[pairs.user == u][0] for u in range(pairs.num_users)])
  assert all(len(set(parts.shard[pairs.user == u].tolist())) == 1 for u in range(pairs.num_users))
  assert np.bincount(of_user).tolist() == [40] * 4 and parts.info["cap"] == 40
  table = np.zeros((4, 4), int)
  np.add.at(table, (of_user, user_group), 1)
  assert table.max(1).min() >= 38
  assert table.argmax(1).tolist() == [1, 3, 2, 0]
  points = hypergraph_embedding(pairs.to_csr(), 3, np.random.default_rng(5))
  apart = spread(points, of_user, 4)[1]
  assert apart.tolist() == sorted(apart.tolist())
  assert parts.derived_from == "pairs"


def test_laser_separates_a_hypergraph_that_falls_apart():
  size = 12
  user, item = np.divmod(np.arange(9 * size * size), 3 * size)
  rng = np.random.default_rng(0)
  keep = (user // size == item // size) & (rng.random(user.size) < 0.7)
  pairs = Interactions.from_pairs(user[keep], item[keep])
  parts = partition.laser(jax.random.key(1), pairs, 3, dim=2)
  assert all(len(set((s.user // size).tolist())) == 1 for s in parts.shards(pairs))


def test_laser_is_determined_by_the_key_and_keeps_the_best_start(monkeypatch):
  module, seen = importlib.import_module("jaxunlearn.partition.laser"), []

  def watched(points, group, num_groups):
    out = spread(points, group, num_groups)
    seen.append(float(out[0].sum()))
    return out

  monkeypatch.setattr(module, "spread", watched)
  pairs = random_pairs(num_pairs=300)
  parts = partition.laser(jax.random.key(0), pairs, 5, dim=6)
  assert len(set(seen)) == 5 and parts.info["inertia"] == min(seen)
  again = partition.laser(jax.random.key(0), pairs, 5, dim=6)
  np.testing.assert_array_equal(parts.shard, again.shard)


def test_a_group_of_one_user_comes_last():
  pairs = random_pairs(num_users=7, num_items=12, num_pairs=60)
  parts = partition.laser(jax.random.key(0), pairs, 4, dim=2)  # 7 users in groups of at most 2
  users = [len(np.unique(s.user)) for s in parts.shards(pairs)]
  assert sorted(users) == [1, 2, 2, 2] and users[-1] == 1


def test_wrong_arguments_name_themselves():
  pairs, key = random_pairs(), jax.random.key(0)
  p, q = np.ones((40, 4), np.float32), np.ones((30, 5), np.float32)
  with pytest.raises(ValueError, match="one dimension"):
    partition.bekm(key, pairs, p, q, 3)
  with pytest.raises(ValueError, match="num_shards=41 <= 40 users"):
    partition.blpa(key, pairs, 41)
  with pytest.raises(ValueError, match="slack=-0.1"):
    partition.blpa(key, pairs, 3, slack=-0.1)
  with pytest.raises(ValueError, match="max_passes=0"):
    partition.blpa(key, pairs, 3, max_passes=0)
  for groups, message in (
    (0, "num_groups=0"),
    (41, "num_groups=41 <= 40 users .* lower num_groups"),
  ):
    with pytest.raises(ValueError, match=message):
      partition.laser(key, pairs, groups)
  with pytest.raises(ValueError, match="dim=0"):
    partition.laser(key, pairs, 3, dim=0)
  with pytest.raises(ValueError, match="two users and two items"):
    partition.laser(key, pairs.select(pairs.user == 3), 1)
  with pytest.raises(ValueError, match="restarts=0"):
    partition.laser(key, pairs, 3, restarts=0)


def test_nothing_of_users_times_users_is_formed():
  # 20,000 users: their square, of floats, would be 1.6 GB; the sparse matrix has 60,000 entries.
  rng = np.random.default_rng(0)
  pairs = Interactions.from_pairs(rng.integers(0, 20000, 60000), rng.integers(0, 8000, 60000))
  tracemalloc.start()
  partition.blpa(jax.random.key(0), pairs, 8)
  points = hypergraph_embedding(pairs.to_csr()[np.unique(pairs.user)][:, np.unique(pairs.item)], 4, rng)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 100e6 and scipy.sparse.issparse(pairs.to_csr()) and len(points) <= 20000
