"""The curvature of what is retained, and the solve for the step that IFRU takes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxunlearn import linalg
from jaxunlearn.unlearn import _influence, _pair_curvature
from jaxunlearn.unlearn._influence import Gram, Problem, Static

SOLVERS = ("cg", "ggn_cg", "adam")


class System(struct.PyTreeNode):
  """Curvature on the scoped rows.

  Attributes:
    vectors: float [N, d], where the scores are taken: the rows of both tables, with a graph propagated.
    batches: of the examples, and how many.
    ridge: float [S], diagonal of the L2 term.
    unit: float [S], what damping is multiplied with, row by row: the weight of the examples (for WMF of the entries)
      that the row takes part in; 0 for rows that do not move.
    gone: bool [S], rows that no retained example is left of.
    gram: WMF's sum over all entries, else None.
    slopes: of the examples under the curvature, where the problem has a layout of them, else None.
  """

  vectors: jax.Array
  batches: Any
  ridge: jax.Array
  unit: jax.Array
  gone: jax.Array
  gram: Gram | None
  slopes: _pair_curvature.Slopes | None


def build_system(problem: Problem, static: Static) -> System:
  """What every product needs, computed once."""
  retained = (problem.examples.weight > 0) & ~problem.forgotten
  weight = _influence.row_weight(problem, static, problem.curved)
  kept = _influence.row_weight(problem, static, retained)
  unit, gram = weight, None
  if static.kind == "squares":
    gram = _influence.gram_of(problem, static, _influence.has_pairs(problem, problem.curved))
    of_user = problem.scope < problem.num_users
    still = _influence.has_pairs(problem, retained)[jnp.minimum(problem.scope, problem.num_users - 1)]
    entries = jnp.where(of_user, jnp.where(still, float(gram.num_items), 0.0), gram.num_users)
    unit, kept = weight + gram.weight * entries, kept + entries
  inside = problem.scope < problem.nodes.shape[0]
  gone = inside & (kept <= 0)
  vectors = problem.nodes
  if problem.graph_curved is not None:
    vectors = _influence.encode_nodes(problem, static, problem.nodes, problem.graph_curved)
  slopes = None
  if problem.layout is not None:
    slopes = _pair_curvature.slopes(problem.layout, vectors, jnp.where(problem.curved, problem.examples.weight, 0.0))
  batches = _influence.batches_of(_influence.touching(problem, problem.curved), static.chunk)
  unit = jnp.where(inside & ~gone, unit, 0.0).astype(vectors.dtype)
  return System(vectors, batches, static.model.config.l2 * weight, unit, gone, gram, slopes)


def curvature_product(problem: Problem, system: System, static: Static, vector: jax.Array) -> jax.Array:
  """H · vector on the scoped rows, [S, d]: exact, or its Gauss-Newton part; L2 and, for WMF, all entries included."""
  if problem.graph_curved is None and problem.layout is None:
    bent = _ranking_product(problem, system, static, vector)
  else:
    bent = _through_nodes(problem, system, static, vector)
  bent += system.ridge[:, None] * vector
  return bent if system.gram is None else bent + _gram_product(problem, system, static, vector)


def _through_nodes(problem: Problem, system: System, static: Static, vector: jax.Array) -> jax.Array:
  """The examples' part of H · vector by way of all vectors: over a graph, or by the layout of the examples.

  Scores are taken of linearly encoded rows, so H = Eᵀ H_vectors E: two propagations, whatever the batches.
  """
  spread = jnp.zeros_like(problem.nodes).at[problem.scope].set(vector, mode="drop")
  if problem.graph_curved is None:
    return _influence.scoped(problem, _of_vectors(problem, system, static, spread))
  encode = functools.partial(_influence.encode_nodes, problem, static, graph=problem.graph_curved)
  vectors, pull_back = jax.vjp(encode, spread)
  return _influence.scoped(problem, pull_back(_of_vectors(problem, system, static, vectors))[0])


def _of_vectors(problem: Problem, system: System, static: Static, change: jax.Array) -> jax.Array:
  """The examples' curvature times a change of all vectors, [N, d]."""
  if problem.layout is None or system.slopes is None:
    return _ranking_product(problem, system, static, change)
  return _pair_curvature.product(
    problem.layout, system.slopes, system.vectors, change, gauss_newton=static.solver == "ggn_cg"
  )


def _ranking_product(problem: Problem, system: System, static: Static, vector: jax.Array) -> jax.Array:
  """The examples' curvature, differentiated, times a change of the scoped rows, or with a graph of all vectors."""
  places, size = _influence.places_of(problem)
  (order, real), count = system.batches
  everywhere = jnp.arange(problem.nodes.shape[0])

  moved = jnp.concatenate([vector, jnp.zeros_like(vector[:1])])  # the place of all rows that stay

  def add(index: jax.Array, total: jax.Array) -> jax.Array:
    at, examples = order[index], problem.examples
    weight = _influence.weight_of(problem, (at, real[index]))
    rows = _influence.rows_of(system.vectors, everywhere, examples, at)
    change = _influence.rows_of(moved, places, examples, at)

    def outputs(rows: _influence.Rows) -> Any:
      return _influence.scores_of(rows, problem.rest, static)

    def outer(scores: Any) -> jax.Array:
      return _influence.outer_loss(scores, weight, static)

    if static.solver == "ggn_cg":
      bent = linalg.gauss_newton_product(outputs, outer, rows, change)
    else:
      bent = linalg.hvp(lambda rows: outer(outputs(rows)), rows, change)
    return _influence.add_rows(total, bent, places, examples, at)

  return jax.lax.fori_loop(0, count, add, jnp.zeros_like(moved))[:size]


def _gram_product(problem: Problem, system: System, static: Static, vector: jax.Array) -> jax.Array:
  """The Hessian of c₀ ⟨PᵀP, QᵀQ⟩ (or its Gauss-Newton part: scores as if linear) times a change of the rows."""
  gram = system.gram
  assert gram is not None
  rows = _influence.scoped(problem, problem.nodes)
  of_user = (problem.scope < problem.num_users)[:, None]
  # Rows that are in no retained entry are left out of both sides, as their unit is 0.
  rows, vector = (jnp.where(system.unit[:, None] > 0, x, 0.0) for x in (rows, vector))
  user, item = jnp.where(of_user, rows, 0.0), jnp.where(of_user, 0.0, rows)
  user_change = jnp.where(of_user, vector, 0.0).T @ user  # δPᵀ P
  item_change = jnp.where(of_user, 0.0, vector).T @ item  # δQᵀ Q
  if static.solver != "ggn_cg":
    user_change, item_change = user_change + user_change.T, item_change + item_change.T
  to_user = vector @ gram.item + rows @ item_change
  to_item = vector @ gram.user + rows @ user_change
  return 2.0 * gram.weight * jnp.where(of_user, to_user, to_item)


def _scaled(system: System) -> jax.Array:
  """unit^−½ as a column, 0 for rows that do not move."""
  moving = system.unit > 0
  return jnp.where(moving, jax.lax.rsqrt(jnp.where(moving, system.unit, 1.0)), 0.0)[:, None]


@functools.partial(jax.jit, static_argnames=("static",))
@jax.default_matmul_precision("highest")
def solve(
  problem: Problem,
  gradient: jax.Array,
  damping: jax.Array,
  max_iterations: jax.Array,
  tolerance: jax.Array,
  learning_rate: jax.Array,
  *,
  static: Static,
) -> tuple[linalg.CGResult, jax.Array]:
  """The step x of the scoped rows: (H + damping · diag(unit)) x = gradient.

  Conjugate gradient runs on the rows scaled by unit^½, where damping is a multiple of the identity and a user of ten
  pairs and one of a thousand are bent alike: a diagonal preconditioner, and the reported residual and curvature
  are those of the scaled system. "adam" is IFRU's released iteration instead, Adam on ½ xᵀHx − xᵀg from 0, without
  damping; its `learning_rate` is the first step of every entry.

  Args:
    problem: the request.
    gradient: float [S, d], from `forgotten_gradient`.
    damping: scalar, ≥ 0, in units of L2 an example.
    max_iterations: int32 scalar; for "adam" how many are done.
    tolerance: scalar.
    learning_rate: scalar, of "adam".
    static: what to compile for.

  Returns:
    The result with x [S, d], 0 for rows that do not move; and bool [S], rows that no retained example is left of.
  """
  system = build_system(problem, static)
  moving = (system.unit > 0)[:, None]
  scale = _scaled(system) if static.solver != "adam" else moving.astype(gradient.dtype)

  def product(vector: jax.Array) -> jax.Array:
    return scale * curvature_product(problem, system, static, scale * vector)

  rhs = scale * gradient
  if static.solver == "adam":
    result = _adam(product, rhs, max_iterations, tolerance, learning_rate)
  else:
    result = linalg.conjugate_gradient(
      product, rhs, damping=damping, max_iterations=max_iterations, tolerance=tolerance
    )
  return result._replace(x=scale * result.x), system.gone


def _adam(
  product: linalg.Product, rhs: jax.Array, num_iterations: jax.Array, tolerance: jax.Array, learning_rate: jax.Array
) -> linalg.CGResult:
  optimizer = optax.scale_by_adam()

  def step(_: jax.Array, carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
    x, moments = carry
    direction, moments = optimizer.update(product(x) - rhs, moments)
    return x - learning_rate * direction, moments

  zero = jnp.zeros_like(rhs)
  x, _ = jax.lax.fori_loop(0, num_iterations, step, (zero, optimizer.init(zero)))
  scale = linalg.norm(rhs)
  residual = linalg.norm(rhs - product(x)) / jnp.where(scale > 0, scale, 1.0)
  code = jnp.where(residual <= tolerance, linalg.CONVERGED, linalg.ITERATION_LIMIT)
  code = jnp.where(jnp.isfinite(residual), code, linalg.NON_FINITE).astype(jnp.int32)
  return linalg.CGResult(x, residual, jnp.asarray(num_iterations, jnp.int32), code, jnp.full_like(residual, jnp.inf))
