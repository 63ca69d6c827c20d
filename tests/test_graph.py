import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import _products, graph
from jaxunlearn.data.interactions import Interactions


def small(seed=0, num_users=12, num_items=9, num_pairs=40):
  rng = np.random.default_rng(seed)
  return Interactions.from_pairs(
    rng.integers(0, num_users - 1, num_pairs),
    rng.integers(0, num_items, num_pairs),
    num_users=num_users,
    num_items=num_items,
  )


def dense_adjacency(data):
  """Naive twin: loops over pairs."""
  n = data.num_users + data.num_items
  a = np.zeros((n, n))
  for u, i in zip(data.user, data.item, strict=True):
    a[u, data.num_users + i] = a[data.num_users + i, u] = 1
  degree = a.sum(1)
  scale = np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0)
  return scale[:, None] * a * scale[None, :]


def test_adjacency_equals_the_naive_one():
  data = small()
  np.testing.assert_allclose(graph.build_graph(data).adjacency.todense(), dense_adjacency(data), atol=1e-6)


@pytest.mark.parametrize("method", graph.METHODS)
def test_every_product_is_the_dense_product(method):
  data = small()
  x = jnp.asarray(np.random.default_rng(1).normal(size=(21, 5)), jnp.float32)
  got = jax.jit(lambda g, x: graph.adjacency_product(g, x, method=method))(graph.build_graph(data), x)
  np.testing.assert_allclose(got, dense_adjacency(data) @ np.asarray(x), atol=1e-5)


@pytest.mark.parametrize("method", graph.METHODS)
def test_gradient_and_hessian_vector_product_pass_through(method):
  data = small()
  g, rng = graph.build_graph(data), np.random.default_rng(1)
  x, v = (jnp.asarray(rng.normal(size=(21, 3)), jnp.float32) for _ in range(2))
  dense = jnp.asarray(dense_adjacency(data), jnp.float32)

  def loss(x):
    return jnp.sum(graph.propagate(g, x, 2, method=method) ** 3)

  def dense_loss(x):
    return jnp.sum(((x + dense @ x + dense @ dense @ x) / 3) ** 3)

  (slope, got), (dense_slope, expected) = (
    jax.jit(lambda x, v, f=f: jax.jvp(jax.grad(f), (x,), (v,)))(x, v) for f in (loss, dense_loss)
  )
  np.testing.assert_allclose(slope, dense_slope, atol=2e-4)
  np.testing.assert_allclose(got, expected, atol=5e-4)


def test_stacked_and_vmapped_products_equal_one_by_one():
  data = small()
  g = graph.build_graph(data)
  x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 21, 5)), jnp.float32)
  one_by_one = jnp.stack([graph.propagate(g, each, 3) for each in x])
  np.testing.assert_allclose(graph.propagate(g, x, 3), one_by_one, atol=1e-6)
  for method in ("bcoo", "segment_sum"):
    shards = graph.stack_graphs([graph.build_graph(small(s)) for s in range(3)])
    got = jax.jit(jax.vmap(lambda g, x, method=method: graph.propagate(g, x, 2, method=method)))(shards, x[:3])
    for s in range(3):
      np.testing.assert_allclose(got[s], graph.propagate(graph.build_graph(small(s)), x[s], 2), atol=1e-5)


def test_an_isolated_node_keeps_only_its_own_share():
  data = small()  # the last user has no pair
  x = jnp.ones((21, 2))
  out = graph.propagate(graph.build_graph(data), x, 3)
  np.testing.assert_allclose(out[11], 0.25)


def test_deletion_repacks_and_leaves_no_forgotten_index():
  data = small()
  forget = data.select(np.arange(0, len(data), 5))
  before = graph.build_graph(data)
  after = graph.delete_pairs(before, data, forget)
  assert after.adjacency.data.shape == before.adjacency.data.shape
  retained = data.without(forget)
  np.testing.assert_allclose(after.adjacency.todense(), dense_adjacency(retained), atol=1e-6)
  stored = {tuple(entry) for entry in np.asarray(after.adjacency.indices).tolist()}
  for u, i in zip(forget.user.tolist(), forget.item.tolist(), strict=True):
    assert (u, data.num_users + i) not in stored
    assert (data.num_users + i, u) not in stored


def test_deleting_an_absent_pair_names_it():
  data = small()
  absent = Interactions.from_pairs([11], [3], num_users=12, num_items=9)
  with pytest.raises(ValueError, match=r"\(11, 3\)"):
    graph.delete_pairs(graph.build_graph(data), data, absent)


def test_too_small_a_capacity_is_refused():
  with pytest.raises(ValueError, match="capacity=4"):
    graph.build_graph(small(), capacity=4)


@pytest.mark.parametrize("hops", [0, 1, 2, 3])
def test_scope_equals_breadth_first_search(hops):
  data = small(num_pairs=14)
  forget = data.select(np.asarray([2]))
  neighbours = {}
  for u, i in zip(data.user.tolist(), data.item.tolist(), strict=True):
    neighbours.setdefault(("u", u), set()).add(("i", i))
    neighbours.setdefault(("i", i), set()).add(("u", u))
  near = {("u", int(forget.user[0])), ("i", int(forget.item[0]))}
  for _ in range(hops):
    near |= set().union(*(neighbours[node] for node in near))
  found = graph.scope(data, forget, hops)
  assert {("u", int(u)) for u in np.flatnonzero(found.user)} | {
    ("i", int(i)) for i in np.flatnonzero(found.item)
  } == near


@pytest.mark.parametrize("kind", ["few", "hubs", "many"])
@pytest.mark.parametrize("num_layers", [0, 1, 3])
@pytest.mark.parametrize("method", graph.METHODS)
def test_rows_of_the_propagation_and_their_gradient(method, num_layers, kind):
  built = graph.build_graph(small(num_users=100, num_items=60, num_pairs=900))
  layer0 = jax.random.normal(jax.random.key(0), (built.num_nodes, 5))
  repeated = [0, 3, 3, built.num_nodes - 1, 7, 0]  # they add up
  hub = int(jnp.argmax(jnp.diff(built.indptr)))
  rows = jnp.asarray({"few": repeated, "hubs": repeated + 34 * [hub], "many": list(range(50))}[kind])
  entries = int(jnp.sum(jnp.diff(built.indptr)[rows]))
  assert (4 * len(rows) <= built.num_nodes) == (kind != "many")
  assert (entries <= built.capacity // 4) == (kind == "few") or kind == "many"  # of hubs too many: all rows
  mixed = jax.random.normal(jax.random.key(1), (2, len(rows), 5))

  def picked(x):
    first, mean = graph.propagate_rows(built, x, rows, num_layers, method=method)
    return jnp.sum(mixed[0] * first + mixed[1] * jnp.sin(mean))

  def whole(x):
    nodes = graph.propagate(built, x, num_layers, method="segment_sum")
    return jnp.sum(mixed[0] * x[rows] + mixed[1] * jnp.sin(nodes[rows]))

  for one, other in zip(*(jax.jit(jax.value_and_grad(f))(layer0) for f in (picked, whole)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
  tangent = jnp.ones_like(layer0)
  one, other = (jax.jit(lambda x, f=f: jax.jvp(jax.grad(f), (x,), (tangent,))[1])(layer0) for f in (picked, whole))
  np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_rows_with_more_entries_than_int32_counts_are_not_taken_for_few():
  """An item of 50,000 users, 50,000 times in a batch: 2.5 billion entries, which wrapped around to below zero."""
  count = 50_000
  data = Interactions.from_pairs(np.arange(count), np.zeros(count, int), num_users=count, num_items=2)
  built = graph.build_graph(data)
  x = jnp.arange(built.num_nodes, dtype=jnp.float32)[:, None] / count
  rows = jnp.full(count, count, jnp.int32)
  found = jax.jit(lambda x: _products.picked_product(built, x, rows, "bcsr"))(x)
  np.testing.assert_allclose(found, np.full((count, 1), x[:count].sum() / count**0.5), rtol=1e-5)
