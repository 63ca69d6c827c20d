"""All sparse code: the normalised bipartite adjacency, its product, propagation, scope, and deletion.

Nodes are the users 0 … U − 1 followed by the items U … U + I − 1. The adjacency is a BCOO whose entries are sorted by
(row, column) and padded to a capacity with explicit zeros at the last diagonal entry, so that a deletion changes
values and not shapes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.custom_derivatives import linear_call
from jax.experimental import sparse as jsparse

from jaxunlearn import _products
from jaxunlearn._validate import check_choice
from jaxunlearn.data.interactions import Interactions, capacity_for

METHODS = ("auto", "bcsr", "bcoo", "segment_sum")
# Called outside of `jax.jit`, `linear_call` is compiled anew each time, and the program is kept. Inlined where traced.
_jit = functools.partial(jax.jit, inline=True)


class Graph(struct.PyTreeNode):
  """D^{-1/2} A D^{-1/2} of the bipartite graph, symmetric, without self-loops.

  Attributes:
    adjacency: BCOO [num_users + num_items, num_users + num_items], float32; its padding is explicit zeros.
    column: int32 [capacity], the entries' columns once more: cut out of the BCOO's [capacity, 2] at each product, they
      cost a sixth of it (Gowalla, CPU).
    indptr: int32 [num_nodes + 1], row starts of the same entries; it ends before the padding, which BCSR's kernel
      therefore never visits.
    degree: float32 [num_nodes], neighbours of a node.
  """

  adjacency: jsparse.BCOO
  column: jax.Array
  indptr: jax.Array
  degree: jax.Array
  num_users: int = struct.field(pytree_node=False)
  num_items: int = struct.field(pytree_node=False)

  @property
  def num_nodes(self) -> int:
    """Users and items together."""
    return self.num_users + self.num_items

  @property
  def capacity(self) -> int:
    """Stored entries, padding included."""
    return self.adjacency.data.shape[-1]


def build_graph(interactions: Interactions, capacity: int | None = None) -> Graph:
  """The normalised adjacency of `interactions`, packed: entries of these pairs and nothing else.

  An isolated node has degree 0 and an empty row, so propagation keeps only its own layer-0 share.

  Args:
    interactions: the pairs.
    capacity: stored entries; twice the pairs' own power-of-two capacity when None, so that a graph rebuilt after a
      deletion keeps its shape as long as the pairs keep theirs.

  Raises:
    ValueError: capacity is smaller than twice the number of pairs.
  """
  num_pairs, num_users = len(interactions), interactions.num_users
  capacity = 2 * capacity_for(num_pairs) if capacity is None else capacity
  if capacity < 2 * num_pairs:
    raise ValueError(f"Expected capacity={capacity} >= {2 * num_pairs}, two entries a pair.")
  num_nodes = num_users + interactions.num_items
  _, users_by_item = interactions.by_item()
  degree = np.concatenate([interactions.user_degrees(), interactions.item_degrees()])
  scale = np.where(degree > 0, 1.0 / np.sqrt(np.maximum(degree, 1)), 0.0)
  row, col = np.full((2, capacity), num_nodes - 1, np.int32)
  row[: 2 * num_pairs] = np.repeat(np.arange(num_nodes, dtype=np.int32), degree)
  col[:num_pairs], col[num_pairs : 2 * num_pairs] = interactions.item, users_by_item
  col[:num_pairs] += num_users
  data = np.zeros(capacity, np.float32)
  data[: 2 * num_pairs] = np.repeat(scale, degree) * scale.take(col[: 2 * num_pairs])
  indptr = np.concatenate([[0], np.cumsum(degree)])
  column = jnp.asarray(col)
  adjacency = jsparse.BCOO(
    (jnp.asarray(data), jnp.stack([jnp.asarray(row), column], axis=1)),
    shape=(num_nodes, num_nodes),
    indices_sorted=True,
    unique_indices=False,  # the padding repeats one entry
  )
  return Graph(
    adjacency=adjacency,
    column=column,
    indptr=jnp.asarray(indptr.astype(np.int32)),
    degree=jnp.asarray(degree.astype(np.float32)),
    num_users=num_users,
    num_items=interactions.num_items,
  )


def delete_pairs(graph: Graph, interactions: Interactions, forget: Interactions) -> Graph:
  """The graph of `interactions` without `forget`: repacked at the old capacity, no forgotten index left anywhere.

  Degrees are recomputed, so every weight that a forgotten pair entered changes too.

  Raises:
    ValueError: a pair of `forget` is not among `interactions`.
  """
  return build_graph(interactions.without(forget), capacity=graph.capacity)


def widen(graph: Graph, capacity: int) -> Graph:
  """The same graph stored in `capacity` entries, so that graphs of several sizes share a program.

  Raises:
    ValueError: capacity is smaller than the entries stored now.
  """
  more = capacity - graph.capacity
  if more < 0:
    raise ValueError(f"Expected capacity={capacity} >= {graph.capacity}, the entries that the graph stores.")
  if not more:
    return graph
  last = graph.num_nodes - 1
  adjacency = jsparse.BCOO(
    (
      jnp.pad(graph.adjacency.data, (0, more)),
      jnp.pad(graph.adjacency.indices, ((0, more), (0, 0)), constant_values=last),
    ),
    shape=graph.adjacency.shape,
    indices_sorted=True,
    unique_indices=False,
  )
  return graph.replace(adjacency=adjacency, column=jnp.pad(graph.column, (0, more), constant_values=last))


def stack_graphs(graphs: Sequence[Graph]) -> Graph:
  """Graphs over the same nodes (shards) as one, with a leading axis that `jax.vmap` maps over.

  Raises:
    ValueError: there is none, or their sizes or capacities differ; build them with one capacity.
  """
  sizes = {(g.num_users, g.num_items, g.capacity) for g in graphs}
  if len(sizes) != 1:
    raise ValueError(f"Expected graphs of one size and capacity, got (users, items, capacity) {sorted(sizes)}.")
  nodes = graphs[0].num_nodes
  data = jnp.stack([g.adjacency.data for g in graphs])
  indices = jnp.stack([g.adjacency.indices for g in graphs])
  return graphs[0].replace(
    # A batch dimension of the BCOO itself: the only form in which vmap takes a sparse array apart.
    adjacency=jsparse.BCOO((data, indices), shape=(len(graphs), nodes, nodes), indices_sorted=True),
    column=jnp.stack([g.column for g in graphs]),
    indptr=jnp.stack([g.indptr for g in graphs]),
    degree=jnp.stack([g.degree for g in graphs]),
  )


@functools.partial(_jit, static_argnames="method")
def adjacency_product(graph: Graph, x: jax.Array, *, method: str = "auto") -> jax.Array:
  """Â x, differentiable in x any number of times; Â counts as constant data.

  Args:
    graph: from `build_graph`.
    x: float [num_nodes, d], or [S, num_nodes, d] for S stacks over the same graph (folded into one product).
    method: "auto" picks by the platform the program is lowered for; "bcsr", "bcoo", "segment_sum" name one.
      Under `vmap` over graphs use "bcoo" or "segment_sum": the other two have no batching rule.

  Returns:
    An array shaped like x.
  """
  check_choice("method", method, METHODS)
  if x.ndim == 3:
    stacks, nodes, dim = x.shape
    folded = jnp.moveaxis(x, 0, 1).reshape(nodes, stacks * dim)
    return jnp.moveaxis(adjacency_product(graph, folded, method=method).reshape(nodes, stacks, dim), 1, 0)
  if method in ("bcoo", "segment_sum"):
    return (_products.bcoo_product if method == "bcoo" else _products.segment_sum_product)(graph, x)
  product = _products.auto_product if method == "auto" else _products.bcsr_product
  # Â is its own transpose, which spares autodiff a product with BCSR's (slow, scattered) transpose.
  return linear_call(product, product, graph, x)


@functools.partial(_jit, static_argnames=("num_layers", "method"))
def propagate(graph: Graph, layer0: jax.Array, num_layers: int, *, method: str = "auto") -> jax.Array:
  """LightGCN's forward pass: the mean of Âˡ E⁰ for l = 0 … num_layers.

  Args:
    graph: over the same nodes.
    layer0: float [num_nodes, d] (or stacked, as for `adjacency_product`).
    num_layers: ≥ 0.
    method: as for `adjacency_product`.

  References:
    He et al., LightGCN, SIGIR 2020, eqs. 7 and 8.
  """
  check_choice("method", method, METHODS)

  def mean_of_layers(graph: Graph, x: jax.Array) -> jax.Array:
    return _power_sum(lambda y: adjacency_product(graph, y, method=method), x, num_layers + 1) / (num_layers + 1)

  if method in ("bcoo", "segment_sum"):
    return mean_of_layers(graph, layer0)
  return linear_call(mean_of_layers, mean_of_layers, graph, layer0)  # symmetric, as Â is


@functools.partial(_jit, static_argnames=("num_layers", "method"))
def propagate_rows(
  graph: Graph, layer0: jax.Array, rows: jax.Array, num_layers: int, *, method: str = "auto"
) -> tuple[jax.Array, jax.Array]:
  """Some rows of layer 0, and the same rows of `propagate`: what a training step reads.

  No sum over all nodes is made, forward or backward: rows are picked from each layer before they are added, and their
  cotangents are added into each layer's. On a CPU, where they are few, the last product forward computes these rows
  only, and the first one backward reads their cotangents only: of six products of a step, two cost about half.

  Args:
    graph: over the same nodes.
    layer0: float [num_nodes, d].
    rows: int32 [R], nodes, repeated or not.
    num_layers: ≥ 0.
    method: as for `adjacency_product`.

  Returns:
    float [R, d] twice.
  """
  check_choice("method", method, METHODS)
  product = functools.partial(adjacency_product, method=method)

  few = method in ("auto", "bcsr") and 4 * rows.shape[0] <= graph.num_nodes  # products of few rows, on a CPU

  # One stacked output: of two, `linear_call` does not take a cotangent that is constant under `jax.jvp`.
  def pick(fixed: tuple[Graph, jax.Array], x: jax.Array) -> jax.Array:
    graph, rows = fixed
    first = total = _products.rows_of(x, rows)
    for _ in range(num_layers - 1):
      x = product(graph, x)
      total = total + _products.rows_of(x, rows)
    if num_layers:  # nobody reads the other rows of the last layer
      last = _products.picked_product(graph, x, rows, method) if few else _products.rows_of(product(graph, x), rows)
      total = total + last
    return jnp.stack([first, total / (num_layers + 1)])

  def put_back(fixed: tuple[Graph, jax.Array], cotangents: jax.Array) -> jax.Array:
    graph, rows = fixed
    first, mean = cotangents
    share = mean / (num_layers + 1)
    nodes = jnp.zeros((graph.num_nodes, mean.shape[-1]), mean.dtype)
    # Horner's rule for Σ Âˡ Pᵀ g, P picking the rows and Â being its own transpose.
    for layer in range(num_layers):
      if few and not layer:
        nodes = _products.spread_product(graph, share, rows, method)  # only these rows of its operand are not 0
      else:
        nodes = product(graph, nodes.at[rows].add(share, mode="promise_in_bounds"))
    return nodes.at[rows].add(share + first, mode="promise_in_bounds")

  if method in ("bcoo", "segment_sum"):
    first, mean = pick((graph, rows), layer0)
  else:
    first, mean = linear_call(pick, put_back, (graph, rows), layer0)
  return first, mean


def _power_sum(apply: Callable[[jax.Array], jax.Array], x: jax.Array, count: int) -> jax.Array:
  """Σ applyˡ x for l = 0 … count − 1, by 1 + A + A² + A³ = (1 + A)(1 + A²): as many products as one by one, fewer sums.

  A sum passes over all nodes three times, which on a CPU costs half as much as a product.
  """
  if count == 1:
    return x
  if count % 2 == 0:
    half = _power_sum(lambda y: apply(apply(y)), x, count // 2)
    return half + apply(half)
  return x + apply(_power_sum(apply, x, count - 1))


class Scope(NamedTuple):
  """Nodes near a set of pairs: bool [num_users], bool [num_items]."""

  user: np.ndarray
  item: np.ndarray


def scope(interactions: Interactions, forget: Interactions, hops: int) -> Scope:
  """The p-hop neighbourhood of the forgotten pairs in the graph of `interactions`.

  Hop 0 is the pairs' own users and items; each further hop adds all neighbours of the nodes so far.

  Args:
    interactions: the graph to walk, forgotten pairs included or not.
    forget: pairs to start from.
    hops: p ≥ 0.

  Raises:
    ValueError: hops is negative.
  """
  if hops < 0:
    raise ValueError(f"Expected hops={hops} >= 0.")
  user = np.zeros(interactions.num_users, bool)
  item = np.zeros(interactions.num_items, bool)
  user[forget.user], item[forget.item] = True, True
  for _ in range(hops):
    near_user, near_item = user.copy(), item.copy()
    near_user[interactions.user[item[interactions.item]]] = True
    near_item[interactions.item[user[interactions.user]]] = True
    user, item = near_user, near_item
  return Scope(user, item)
