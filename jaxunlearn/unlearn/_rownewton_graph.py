"""The step of `rownewton` through a graph: the blocks are of propagated vectors, the rows are of layer 0."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxunlearn.base import Embeddings, Params
from jaxunlearn.graph import Graph, propagate
from jaxunlearn.linalg import CGResult, conjugate_gradient
from jaxunlearn.unlearn._rownewton import SIDES, Stored, factor_blocks
from jaxunlearn.unlearn._rownewton_sums import Rows
from jaxunlearn.unlearn._rownewton_terms import Point, Problem

_TINY = 1e-12
_LEADING = 16  # principal axes between which the preconditioner knows a block's off-diagonal entries


@jax.jit
def principal_axes(at: Point) -> jax.Array:
  """Orthonormal [d, d]: axes of all vectors' second moments, the longest first; blocks are near diagonal in them."""
  table = jnp.concatenate(at.vectors)
  return jnp.linalg.eigh(jnp.matmul(table.T, table, precision="highest"))[1][:, ::-1]


def _turn(table: jax.Array, basis: jax.Array) -> jax.Array:
  return jnp.matmul(table, basis, precision="highest")


@jax.jit
def turned(at: Point, basis: jax.Array) -> Point:
  """The point with its vectors in the coordinates of `basis`; inner products stay what they are."""
  return at.replace(vectors=Embeddings(*(_turn(table, basis) for table in at.vectors)))


@functools.partial(jax.jit, static_argnames=("num_layers", "method"))
def coupled_step(
  problem: Problem,
  old_graph: Graph,
  graph: Graph,
  rows: dict[str, Rows],
  stored: Stored,
  gone: Embeddings,
  params: Params,
  old_params: Params,
  basis: jax.Array,
  max_step: jax.Array,
  max_iterations: jax.Array,
  tolerance: jax.Array,
  *,
  num_layers: int,
  method: str,
) -> tuple[Params, CGResult, dict[str, jax.Array]]:
  """Newton step of the affected layer-0 rows, coupled by the propagation Π over the retained graph.

  Solves (Π C Π + l2·n + damping·n) Δ = Π⁰ g⁰ − Π g − l2 (n E − n⁰ E⁰) on the affected rows, where C has the blocks of
  the propagated vectors: an affected row's own, and for the others the mean block of their side, for as many
  examples as they are part of. Conjugate gradient, in the coordinates of `basis`, preconditioned with what Π's
  diagonal leaves of a row's own block, Π_vv² C_v + l2·n + damping·n: of it, the first `_LEADING` axes with all they
  have in common and of the others the diagonal. Without propagation, and with so few axes, that is the whole system,
  solved in one iteration; of 64 axes the whole block saves two iterations of six on ml-1m, and takes longer to factor
  and to solve with than the others together.

  Args:
    problem: the objective.
    old_graph: before the request; Π⁰.
    graph: of the retained pairs; Π.
    rows: "user" and "item".
    stored: of `store`, at points that are `turned`.
    gone: of `removed`, not turned.
    params: layer-0 tables to move, fresh rows set already; not turned, nor is the result.
    old_params: before the request.
    basis: of `principal_axes`, or any other orthonormal [d, d].
    max_step: as in `sweep`.
    max_iterations: of conjugate gradient.
    tolerance: of its relative residual.
    num_layers: static, of the model.
    method: static, of the sparse product.

  Returns:
    The new tables, the solver's report, the largest step and how many rows the cap held.
  """
  num_users, num_nodes = graph.num_users, graph.num_nodes

  def nodes(user: jax.Array, item: jax.Array) -> jax.Array:
    return jnp.concatenate([user, item])

  # Both sides in one list: one product, one solve (XLA's CPU thread pool can deadlock on two at once).
  index = nodes(rows["user"].index, num_users + rows["item"].index)
  live = nodes(*(jnp.arange(rows[side].index.shape[0]) < rows[side].count for side in SIDES))
  target = jnp.where(live, index, num_nodes)
  block, slope, was = stored.block, stored.gradient, stored.before

  def placed(values: jax.Array, fill: jax.Array) -> jax.Array:
    return fill.at[target].set(values, mode="drop")

  def spread(graph: Graph, x: jax.Array) -> jax.Array:
    return propagate(graph, x, num_layers, method=method)

  given = nodes(params["user"], params["item"])
  table, old_table = _turn(given, basis), _turn(nodes(old_params["user"], old_params["item"]), basis)
  zeros = jnp.zeros_like(table)
  fresh = nodes(rows["user"].fresh, rows["item"].fresh)[:, None]
  count = nodes(problem.user_count, problem.item_count)[:, None]
  lost = nodes(problem.user_removed, problem.item_removed)[:, None]
  affected = placed(jnp.ones((index.shape[0], 1)), zeros[:, :1])
  # The forces Π g of the examples and that of L2 were in balance before, but for what training had left.
  now = spread(graph, placed(slope, zeros)) + problem.l2 * count * table
  now, was = jax.lax.optimization_barrier((now, was))  # one sparse product at a time, for the same reason
  was = placed(was + _turn(nodes(*gone)[index], basis), zeros)
  then = spread(old_graph, was) + problem.l2 * (count + lost) * old_table
  right = -affected * jnp.where(fresh, now, now - then)

  is_user = jnp.arange(index.shape[0]) < rows["user"].index.shape[0]
  means = []
  for mask, total in zip((is_user & live, ~is_user & live), stored.total, strict=True):
    means.append(total / jnp.maximum(jnp.sum(jnp.where(mask, count[index, 0], 0.0)), _TINY))

  def curvature(z: jax.Array) -> jax.Array:
    typical = nodes(z[:num_users] @ means[0], z[num_users:] @ means[1]) * count
    return placed(jnp.einsum("tde,te->td", block, z[index]), typical)

  ridge = (problem.l2 + problem.damping) * count
  ridge = jnp.where(ridge > 0, ridge, 1.0)

  def product(x: jax.Array) -> jax.Array:
    return affected * (spread(graph, curvature(spread(graph, x))) + ridge * x)

  here = jnp.square(_diagonal(graph, num_layers)[index])
  few = min(_LEADING, block.shape[-1])
  factor = factor_blocks(here[:, :, None] * block[:, :few, :few], ridge[index, 0])
  # Solved with once for each axis, since a solve is slower than a product and there is one an iteration.
  inverse = jax.scipy.linalg.cho_solve((factor, True), jnp.broadcast_to(jnp.eye(few), factor.shape))
  alone = here * jnp.diagonal(block, axis1=1, axis2=2)[:, few:] + ridge[index]

  def precondition(residual: jax.Array) -> jax.Array:
    own = residual[index]
    together = jnp.einsum("tde,te->td", inverse, own[:, :few])
    return placed(jnp.concatenate([together, own[:, few:] / alone], axis=1), zeros)

  found = conjugate_gradient(
    product, right, preconditioner=precondition, max_iterations=max_iterations, tolerance=tolerance
  )
  length = jnp.linalg.norm(old_table, axis=1, keepdims=True)
  halves = (length[:num_users], length[num_users:])
  unit = jnp.maximum(length, nodes(*(jnp.full_like(part, jnp.mean(part)) for part in halves)))
  relative = jnp.where(fresh, 0.0, jnp.linalg.norm(found.x, axis=1, keepdims=True) / jnp.maximum(unit, _TINY))
  step = found.x * jnp.where(relative > max_step, max_step / jnp.maximum(relative, _TINY), 1.0)
  new = jnp.where(affected > 0, given + _turn(step, basis.T), given)
  report = {"largest_step": jnp.max(relative), "capped": jnp.sum(relative > max_step)}
  return {"user": new[:num_users], "item": new[num_users:]}, found, report


def _diagonal(graph: Graph, num_layers: int) -> jax.Array:
  """[num_nodes, 1]: Π_vv for up to three layers (odd powers of a bipartite graph have none); without Â⁴ beyond."""
  if num_layers < 2:
    return jnp.full((graph.num_nodes, 1), 1.0 / (num_layers + 1))
  entries = graph.adjacency
  back = jax.ops.segment_sum(jnp.square(entries.data), entries.indices[:, 0], graph.num_nodes, indices_are_sorted=True)
  return (1.0 + back[:, None]) / (num_layers + 1)
