"""The step of `rownewton` through a graph: the blocks are of propagated vectors, the rows are of layer 0."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxunlearn.base import Embeddings, Params
from jaxunlearn.graph import Graph, propagate, propagate_rows
from jaxunlearn.linalg import CGResult, conjugate_gradient
from jaxunlearn.unlearn._rownewton import SIDES, Stored, factor_blocks
from jaxunlearn.unlearn._rownewton_sums import TILE, Rows
from jaxunlearn.unlearn._rownewton_terms import Point, Problem

_TINY = 1e-12
_LEADING = 16  # principal axes between which the preconditioner knows a block's off-diagonal entries


@jax.jit
@jax.default_matmul_precision("highest")
def principal_axes(at: Point) -> jax.Array:
  """Orthonormal [d, d]: axes of all vectors' second moments, the longest first; blocks are near diagonal in them."""
  table = jnp.concatenate(at.vectors)
  return jnp.linalg.eigh(table.T @ table)[1][:, ::-1]


def has_columns(rows: dict[str, Rows]) -> bool:
  """Whether the rows are so few that the columns of Π that belong to them come with the vectors at little cost."""
  return all(side.index.shape[0] <= TILE for side in rows.values())


@functools.partial(jax.jit, static_argnames=("num_layers", "method"))
@jax.default_matmul_precision("highest")
def point_and_columns(
  graph: Graph, params: Params, rows: dict[str, Rows], *, num_layers: int, method: str
) -> tuple[Point, jax.Array]:
  """The vectors, and Π's columns of these rows [num_nodes, capacity of both], by one propagation.

  Columns of the unit matrix go along with those of the parameters: 16 beside 64 take a sixth longer (ml-1m, CPU), and
  replace the four propagations of a step whose conjugate gradient has one iteration.
  """
  table = jnp.concatenate([params["user"], params["item"]])
  index = _nodes(graph, rows)
  unit = jnp.zeros((table.shape[0], index.shape[0]), table.dtype).at[index, jnp.arange(index.shape[0])].set(1.0)
  out = propagate(graph, jnp.concatenate([table, unit], axis=1), num_layers, method=method)
  dim, num_users = table.shape[1], graph.num_users
  rest = {name: leaf for name, leaf in params.items() if name not in SIDES}
  return Point(vectors=Embeddings(out[:num_users, :dim], out[num_users:, :dim]), rest=rest), out[:, dim:]


def _nodes(graph: Graph, rows: dict[str, Rows]) -> jax.Array:
  """Both sides in one list: one product, one solve (XLA's CPU thread pool can deadlock on two at once)."""
  return jnp.concatenate([rows["user"].index, graph.num_users + rows["item"].index])


@jax.jit
@jax.default_matmul_precision("highest")
def turned(at: Point, basis: jax.Array) -> Point:
  """The point with its vectors in the coordinates of `basis`; inner products stay what they are."""
  return at.replace(vectors=Embeddings(*(table @ basis for table in at.vectors)))


@functools.partial(jax.jit, static_argnames=("num_layers", "method"))
@jax.default_matmul_precision("highest")
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
  columns: tuple[jax.Array, jax.Array] | None = None,
  *,
  num_layers: int,
  method: str,
) -> tuple[Params, CGResult, dict[str, jax.Array]]:
  """Newton step of the affected layer-0 rows, coupled by the propagation Π over the retained graph.

  Solves (Π C Π + l2·n + damping·n) Δ = Π⁰ g⁰ − Π g − l2 (n E − n⁰ E⁰) on the affected rows, where C has the blocks of
  the propagated vectors: an affected row's own, and for the others the mean block of their side, for as many
  examples as they are part of; all of them as `stored` has them, diagonal beyond its leading axes. Conjugate gradient,
  in the coordinates of `basis`, preconditioned with what Π's diagonal leaves of a row's own block,
  Π_vv² C_v + l2·n + damping·n: of it, the first `_LEADING` axes with all they have in common and of the others the
  diagonal. Without propagation, and with so few axes, that is the whole system, solved in one iteration; of 64 axes
  the whole block saves two iterations of six on ml-1m, and takes longer to factor and to solve with than the others
  together.

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
    columns: of `point_and_columns` over old_graph and graph, for these rows; None: products with the graphs.
    num_layers: static, of the model.
    method: static, of the sparse product.

  Returns:
    The new tables, the solver's report, the largest step and how many rows the cap held.
  """
  num_users = graph.num_users
  size = rows["user"].index.shape[0]

  def nodes(user: jax.Array, item: jax.Array) -> jax.Array:
    return jnp.concatenate([user, item])

  index = _nodes(graph, rows)
  live = nodes(*(jnp.arange(rows[side].index.shape[0]) < rows[side].count for side in SIDES))
  block, beyond = stored.block, stored.beyond
  leading = block.shape[-1]

  def gathered(x: jax.Array, graph: Graph = graph) -> jax.Array:
    """The affected rows of Π x."""
    if columns is not None:  # Π is its own transpose
      return columns[1].T @ x
    return propagate_rows(graph, x, index, num_layers, method=method)[1]

  def spread(own: jax.Array, graph: Graph = graph) -> jax.Array:
    """Π x for an x of these affected rows and of zeros."""
    if columns is not None:
      return columns[1] @ own
    shape = jax.ShapeDtypeStruct((graph.num_nodes, own.shape[1]), own.dtype)
    return jax.linear_transpose(functools.partial(gathered, graph=graph), shape)(own)[0]

  def within(own: jax.Array, old: bool) -> jax.Array:
    """The affected rows of that."""
    if columns is not None:
      return columns[0 if old else 1][index] @ own
    return spread(own, old_graph if old else graph)[index]

  given, old = (nodes(tables["user"], tables["item"])[index] for tables in (params, old_params))
  table, old_table = given @ basis, old @ basis
  fresh = nodes(rows["user"].fresh, rows["item"].fresh)[index, None]
  count = nodes(problem.user_count, problem.item_count)[:, None]
  own_count = count[index]
  lost = nodes(problem.user_removed, problem.item_removed)[index, None]
  # The forces Π g of the examples and that of L2 were in balance before, but for what training had left.
  now = within(stored.gradient, old=False) + problem.l2 * own_count * table
  # One sparse product at a time, for the same reason.
  now, was = jax.lax.optimization_barrier((now, stored.before + nodes(*gone)[index] @ basis))
  then = within(jnp.where(live[:, None], was, 0.0), old=True) + problem.l2 * (own_count + lost) * old_table
  right = jnp.where(live[:, None], jnp.where(fresh, -now, then - now), 0.0)

  is_user = jnp.arange(index.shape[0]) < size
  examples = [jnp.sum(jnp.where(mask & live, own_count[:, 0], 0.0)) for mask in (is_user, ~is_user)]
  share = 1.0 / jnp.maximum(jnp.stack(examples), _TINY)
  # Whole users leave no example to take a mean of: then that of the items, the other ends of the same pairs.
  found_in = jnp.where(jnp.stack(examples) > 0, jnp.arange(2), jnp.arange(2)[::-1])
  mean = (stored.total[0] * share[:, None, None])[found_in]
  mean_beyond = (stored.total[1] * share[:, None])[found_in]
  target = jnp.where(live, index, graph.num_nodes)

  def typical(z: jax.Array, side: int) -> jax.Array:
    return jnp.concatenate([z[:, :leading] @ mean[side], z[:, leading:] * mean_beyond[side][None]], axis=1)

  def curvature(z: jax.Array) -> jax.Array:
    own = z[index]
    together = jnp.einsum("tde,te->td", block, own[:, :leading])
    others = nodes(typical(z[:num_users], 0), typical(z[num_users:], 1)) * count
    return others.at[target].set(jnp.concatenate([together, own[:, leading:] * beyond], axis=1), mode="drop")

  ridge = (problem.l2 + problem.damping) * own_count
  ridge = jnp.where(live[:, None] & (ridge > 0), ridge, 1.0)

  def product(x: jax.Array) -> jax.Array:
    return jnp.where(live[:, None], gathered(curvature(spread(x))), 0.0) + ridge * x

  if columns is None:
    here = jnp.square(_diagonal(graph, num_layers)[index])
  else:
    here = jnp.square(columns[1][index, jnp.arange(index.shape[0])])[:, None]
  few = min(_LEADING, leading)
  factor = factor_blocks(here[:, :, None] * block[:, :few, :few], ridge[:, 0])
  # Solved with once for each axis, since a solve is slower than a product and there is one an iteration.
  inverse = jax.scipy.linalg.cho_solve((factor, True), jnp.broadcast_to(jnp.eye(few), factor.shape))
  diagonal = jnp.concatenate([jnp.diagonal(block, axis1=1, axis2=2)[:, few:], beyond], axis=1)
  alone = here * diagonal + ridge

  def precondition(residual: jax.Array) -> jax.Array:
    together = jnp.einsum("tde,te->td", inverse, residual[:, :few])
    return jnp.concatenate([together, residual[:, few:] / alone], axis=1)

  # No last product to check the residual with: a few iterations to a coarse tolerance do not drift.
  found = conjugate_gradient(
    product, right, preconditioner=precondition, max_iterations=max_iterations, tolerance=tolerance, verify=False
  )
  lengths = [jnp.linalg.norm(old_params[side], axis=1) for side in SIDES]
  unit = nodes(*(jnp.maximum(length, jnp.mean(length)) for length in lengths))[index, None]
  relative = jnp.where(fresh, 0.0, jnp.linalg.norm(found.x, axis=1, keepdims=True) / jnp.maximum(unit, _TINY))
  step = (found.x * jnp.where(relative > max_step, max_step / jnp.maximum(relative, _TINY), 1.0)) @ basis.T
  new = {
    side: params[side].at[jnp.where(live[part], rows[side].index, params[side].shape[0])].add(step[part], mode="drop")
    for side, part in (("user", slice(size)), ("item", slice(size, None)))
  }
  return new, found, {"largest_step": jnp.max(relative), "capped": jnp.sum(relative > max_step)}


def _diagonal(graph: Graph, num_layers: int) -> jax.Array:
  """[num_nodes, 1]: Π_vv for up to three layers (odd powers of a bipartite graph have none); without Â⁴ beyond."""
  if num_layers < 2:
    return jnp.full((graph.num_nodes, 1), 1.0 / (num_layers + 1))
  entries = graph.adjacency
  back = jax.ops.segment_sum(jnp.square(entries.data), entries.indices[:, 0], graph.num_nodes, indices_are_sorted=True)
  return (1.0 + back[:, None]) / (num_layers + 1)
