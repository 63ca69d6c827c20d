"""Products with the adjacency of a `Graph`, by kernel; `graph.py` is what the rest of the package calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.experimental import sparse as jsparse

if TYPE_CHECKING:
  from jaxunlearn.graph import Graph


def bcsr_product(graph: Graph, x: jax.Array) -> jax.Array:
  """Â x by BCSR's kernel, which has no batching rule and whose transpose is slow."""
  view = jsparse.BCSR(
    (graph.adjacency.data, graph.column, graph.indptr),
    shape=graph.adjacency.shape,
    indices_sorted=True,
  )
  return view @ x


def bcoo_product(graph: Graph, x: jax.Array) -> jax.Array:
  """Â x by BCOO, the form that cuSPARSE takes on a GPU."""
  return graph.adjacency @ x


def segment_sum_product(graph: Graph, x: jax.Array) -> jax.Array:
  """Â x by gathering, weighing and adding up rows: what any backend and any batching can do."""
  row, col = graph.adjacency.indices[:, 0], graph.adjacency.indices[:, 1]
  weighted = graph.adjacency.data[:, None] * x[col]
  return jax.ops.segment_sum(weighted, row, num_segments=graph.num_nodes, indices_are_sorted=True)


def auto_product(graph: Graph, x: jax.Array) -> jax.Array:
  """Â x by the kernel of the platform that the program is lowered for."""
  # BCSR's unbatched CPU kernel is 9 times as fast as BCOO's product there; elsewhere BCOO may go to cuSPARSE.
  return jax.lax.platform_dependent(
    x, cpu=functools.partial(bcsr_product, graph), default=functools.partial(bcoo_product, graph)
  )


def rows_of(x: jax.Array, rows: jax.Array) -> jax.Array:
  """`x[rows]` for rows that are in range, without the mask that JAX would put on each."""
  return x.at[rows].get(mode="promise_in_bounds")


def _on_cpu(method: str, cpu: Callable[..., jax.Array], default: Callable[..., jax.Array], *args: Any) -> jax.Array:
  """`cpu` where the program runs on one or `method` asks for its kernel, else `default`."""
  if method == "bcsr":
    return cpu(*args)
  return jax.lax.platform_dependent(*args, cpu=cpu, default=default)  # type: ignore[no-any-return]


def picked_product(graph: Graph, x: jax.Array, rows: jax.Array, method: str) -> jax.Array:
  """`(Â x)[rows]`, on a CPU by a product with those rows of Â alone: half of the time of the whole product."""
  room = max(1, graph.capacity // 4)  # entries of the rows; of more, all rows are computed

  def some(start: jax.Array, end: jax.Array) -> jax.Array:
    begin = jnp.concatenate([jnp.zeros(1, end.dtype), end[:-1]])
    # Entry t of the rows' entries is t plus its row's offset; a running sum of the offsets' jumps repeats each.
    jump = jnp.diff(start - begin, prepend=0)
    offset = jnp.cumsum(jnp.zeros(room, jnp.int32).at[begin].add(jump, mode="drop"))
    entry = jnp.minimum(jnp.arange(room, dtype=jnp.int32) + offset, graph.capacity - 1)
    view = jsparse.BCSR(
      (rows_of(graph.adjacency.data, entry), rows_of(graph.column, entry), jnp.append(begin, end[-1])),
      shape=(rows.shape[0], graph.num_nodes),
    )
    return view @ x

  def whole(start: jax.Array, end: jax.Array) -> jax.Array:
    del start, end
    return rows_of(bcsr_product(graph, x), rows)

  def on_cpu() -> jax.Array:
    start = graph.indptr[rows]
    count = graph.indptr[rows + 1] - start
    end = jnp.cumsum(count)
    # Rows may repeat, so int32 can wrap around; a sum in float32 cannot, and where that is small, `end` did not.
    few = (end[-1] <= room) & (count.astype(jnp.float32).sum() <= 2.0 * room)
    return jax.lax.cond(few, some, whole, start, end)

  return _on_cpu(method, on_cpu, lambda: rows_of(bcoo_product(graph, x), rows))


def spread_product(graph: Graph, values: jax.Array, rows: jax.Array, method: str) -> jax.Array:
  """Â z for z with `values` added into `rows` of zeros, on a CPU by a product over a table of those rows alone.

  Nearly all entries then read one row of zeros, and the others rows that are in a near cache: two thirds of the time.
  """
  count = rows.shape[0]

  def on_cpu() -> jax.Array:
    slot = jnp.full(graph.num_nodes, count, jnp.int32).at[rows].set(jnp.arange(count, dtype=jnp.int32))
    table = jnp.zeros((count + 1, values.shape[1]), values.dtype).at[slot[rows]].add(values, mode="promise_in_bounds")
    view = jsparse.BCSR(
      (graph.adjacency.data, rows_of(slot, graph.column), graph.indptr), shape=(graph.num_nodes, count + 1)
    )
    return view @ table

  def elsewhere() -> jax.Array:
    nodes = jnp.zeros((graph.num_nodes, values.shape[1]), values.dtype)
    return bcoo_product(graph, nodes.at[rows].add(values, mode="promise_in_bounds"))

  return _on_cpu(method, on_cpu, elsewhere)
