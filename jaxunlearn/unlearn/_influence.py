"""IFRU's objective, and the gradient that disappears with the forgotten pairs; `_curvature` has the other side.

Nodes are the users 0 … U − 1 followed by the items. The unknown is the change of the scoped rows alone, an array
[S, d]; without a graph only examples that touch a scoped row are visited.

Everything is a *sum* over examples, never a mean: with g = Σ_forgotten w ∇ℓ and H = Σ_retained w ∇²ℓ the step is H⁻¹ g,
and the factor n_f / n_r between the two means is there by itself.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxunlearn import linalg
from jaxunlearn.base import Context, Model, Params
from jaxunlearn.data.interactions import PaddedInteractions
from jaxunlearn.sampling import sample_negatives
from jaxunlearn.unlearn import _pair_curvature
from jaxunlearn.unlearn._pair_curvature import Layout

KINDS = {"bprmf": "bpr", "lightgcn": "bpr", "neumf": "bce", "wmf": "squares"}  # models whose loss is written out here


def written_out(model: Model) -> bool:
  """Whether sums over the model's examples are faster by a layout of them: BPR on inner products, on a CPU.

  Elsewhere gathers and scatters of rows are what the machine is good at.
  """
  plain = KINDS[model.name] == "bpr" and getattr(model.config, "loss", "bpr") == "bpr"
  return plain and jax.default_backend() == "cpu"


class Static(NamedTuple):
  """What a program is compiled for: the model, the examples visited at once, and the solver of `_curvature.solve`."""

  model: Model
  chunk: int
  solver: str

  @property
  def kind(self) -> str:
    """Which loss: bpr, bce or squares."""
    return KINDS[self.model.name]


class Examples(struct.PyTreeNode):
  """One example a pair, padded; negatives are drawn once and shared by gradient and curvature.

  Attributes:
    user: int32 [capacity], node numbers.
    positive: int32 [capacity], node numbers.
    negative: int32 [capacity, num_negatives], node numbers; none for WMF.
    weight: float32 [capacity], what training weighs the example with; 0 for padding.
  """

  user: jax.Array
  positive: jax.Array
  negative: jax.Array
  weight: jax.Array


class Problem(struct.PyTreeNode):
  """One request; all shapes are capacities.

  Attributes:
    nodes: float [N, d], both tables, one under the other.
    rest: the parameters beside the tables, which stay as they are.
    scope: int32 [S], nodes that may move; N for padding.
    slot: int32 [N], the place of a node in `scope`; S for those outside.
    examples: of all pairs, the forgotten ones included.
    forgotten: bool [capacity].
    spilled: bool [capacity], retained examples whose loss the change of the graph is taken into account for.
    curved: bool [capacity], examples that the Hessian is taken over.
    graph_before: context of all pairs; None without a graph.
    graph_after: context of the retained pairs.
    graph_curved: the one that belongs to `curved`.
    layout: of the examples, where sums over them are written out; None: they are differentiated.
  """

  nodes: jax.Array
  rest: Params
  scope: jax.Array
  slot: jax.Array
  examples: Examples
  forgotten: jax.Array
  spilled: jax.Array
  curved: jax.Array
  graph_before: Context
  graph_after: Context
  graph_curved: Context
  layout: Layout | None
  num_users: int = struct.field(pytree_node=False)


@functools.partial(jax.jit, static_argnames=("num_negatives", "avoid_positives"))
def draw_examples(
  key: jax.Array,
  pairs: PaddedInteractions,
  user_weight_power: jax.Array,
  *,
  num_negatives: int,
  avoid_positives: bool,
) -> Examples:
  """Every pair as training sees it: weight (degree of its user)^−power, negatives outside the user's pairs."""
  degree = jnp.diff(pairs.indptr)
  weight = (jnp.arange(pairs.capacity) < pairs.count).astype(jnp.float32)
  weight *= (jnp.maximum(degree, 1).astype(jnp.float32) ** -user_weight_power)[pairs.user]
  if num_negatives and avoid_positives:
    negative = sample_negatives(key, pairs, pairs.user, num_negatives)
    weight *= degree[pairs.user] < pairs.num_items
  else:
    shape = (pairs.capacity, num_negatives)
    negative = jax.random.randint(key, shape, 0, pairs.num_items, jnp.int32)
  return Examples(pairs.user, pairs.num_users + pairs.item, pairs.num_users + negative, weight)


def batches_of(mask: jax.Array, chunk: int) -> tuple[Any, jax.Array]:
  """The places where `mask` holds, in batches of `chunk`, whether each is real, and how many batches hold any."""
  place = jnp.where(mask, jnp.cumsum(mask.astype(jnp.int32)) - 1, mask.size)
  order = jnp.zeros(mask.size, jnp.int32).at[place].set(jnp.arange(mask.size, dtype=jnp.int32), mode="drop")
  count = jnp.sum(mask.astype(jnp.int32))
  real = jnp.arange(mask.size) < count
  return (order.reshape(-1, chunk), real.reshape(-1, chunk)), (count + chunk - 1) // chunk


def touching(problem: Problem, mask: jax.Array) -> jax.Array:
  """The examples of `mask` that a scoped row is part of; all of them with a graph, which couples every row."""
  if problem.graph_after is not None:
    return mask
  inside, examples = problem.slot < problem.scope.shape[0], problem.examples
  return mask & (inside[examples.user] | inside[examples.positive] | jnp.any(inside[examples.negative], axis=1))


class Rows(NamedTuple):
  """Vectors of examples: float [B, d], [B, d], [B, num_negatives, d]."""

  user: jax.Array
  positive: jax.Array
  negative: jax.Array


def rows_of(table: jax.Array, place: jax.Array, examples: Examples, at: jax.Array) -> Rows:
  """Rows of `table` at the places of the examples' nodes; every place is in range."""
  nodes = (examples.user[at], examples.positive[at], examples.negative[at])
  return Rows(*(table.at[place[node]].get(mode="promise_in_bounds") for node in nodes))


def add_rows(total: jax.Array, rows: Rows, place: jax.Array, examples: Examples, at: jax.Array) -> jax.Array:
  """`total` with the rows added at the places of the examples' nodes; the transpose of `rows_of`."""
  for node, row in zip((examples.user[at], examples.positive[at], examples.negative[at]), rows, strict=True):
    total = total.at[place[node]].add(row, mode="promise_in_bounds")
  return total


def scores_of(rows: Rows, rest: Params, static: Static) -> tuple[jax.Array, jax.Array]:
  """Scores of examples and of their negatives: [B], [B, num_negatives]."""
  positive = static.model.score(rest, rows.user, rows.positive)
  if static.kind == "squares":
    return positive, jnp.zeros((positive.shape[0], 0), positive.dtype)
  negative = static.model.score(rest, rows.user[:, None, :], rows.negative)
  if getattr(static.model.config, "loss", "bpr") == "double_sigmoid":
    return jax.nn.sigmoid(positive), jax.nn.sigmoid(negative)
  return positive, negative


def outer_loss(scores: tuple[jax.Array, jax.Array], weight: jax.Array, static: Static) -> jax.Array:
  """Σ weight · loss of the scores, convex in them; without L2, and for WMF without the sum over all entries."""
  positive, negative = scores
  if static.kind == "bpr":
    each = jnp.mean(jax.nn.softplus(negative - positive[:, None]), axis=1)
  elif static.kind == "bce":
    each = jax.nn.softplus(positive) - positive + jnp.sum(jax.nn.softplus(negative), axis=1)
    each = each / (1 + negative.shape[1])
  else:
    each = (1.0 - static.model.config.unobserved_weight) * jnp.square(positive) - 2.0 * positive
  return jnp.sum(jnp.where(weight > 0, each, 0.0) * weight)


def weight_of(problem: Problem, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
  """float [B]: weights of the examples at (positions [B], bool [B]); 0 where the slot is padding."""
  at, real = batch
  return jnp.where(real, problem.examples.weight[at], 0.0).astype(problem.nodes.dtype)


def _ranking_gradient(problem: Problem, static: Static, vectors: jax.Array, mask: jax.Array) -> jax.Array:
  """∇ Σ_mask weight · loss(scores): in the scoped rows, or with a graph in all vectors."""
  if problem.layout is not None and problem.graph_after is not None:
    return _pair_curvature.gradient(problem.layout, vectors, jnp.where(mask, problem.examples.weight, 0.0))
  places, size = places_of(problem)
  (order, real), count = batches_of(touching(problem, mask), static.chunk)
  everywhere = jnp.arange(vectors.shape[0])

  def add(index: jax.Array, total: jax.Array) -> jax.Array:
    at, weight = order[index], weight_of(problem, (order[index], real[index]))
    rows = rows_of(vectors, everywhere, problem.examples, at)
    grads = jax.grad(lambda rows: outer_loss(scores_of(rows, problem.rest, static), weight, static))(rows)
    return add_rows(total, grads, places, problem.examples, at)

  return jax.lax.fori_loop(0, count, add, jnp.zeros((size + 1, vectors.shape[1]), vectors.dtype))[:size]


def places_of(problem: Problem) -> tuple[jax.Array, int]:
  """Where a node's share of a sum over examples goes, int32 [N], and of how many places; one more takes the rest.

  With that place every index is in range, and gathers and scatters need no test a row.
  """
  if problem.graph_after is not None:
    return jnp.arange(problem.nodes.shape[0]), problem.nodes.shape[0]
  return problem.slot, problem.scope.shape[0]


def row_weight(problem: Problem, static: Static, mask: jax.Array) -> jax.Array:
  """float [S]: Σ of the weights of the examples in which a scoped row takes part (a negative: weight / how many).

  It is the Hessian of the L2 term divided by l2, and so the unit in which damping is measured.
  """
  size, examples = problem.scope.shape[0], problem.examples
  batches, count = batches_of(touching(problem, mask), static.chunk)

  def of_batch(batch: Any, total: jax.Array) -> jax.Array:
    weight, at = weight_of(problem, batch), batch[0]
    total = jnp.zeros_like(total).at[problem.slot[examples.user[at]]].add(weight, mode="drop")
    total = total.at[problem.slot[examples.positive[at]]].add(weight, mode="drop")
    num_negatives = examples.negative.shape[1]
    shared = jnp.broadcast_to(weight[:, None] / max(num_negatives, 1), (weight.shape[0], num_negatives))
    return total.at[problem.slot[examples.negative[at]]].add(shared, mode="drop")

  return linalg.minibatched(of_batch, batches, count)(jnp.zeros(size, problem.nodes.dtype))


def scoped(problem: Problem, table: jax.Array) -> jax.Array:
  """Rows of an [N, d] table at the scope, zeros for its padding."""
  return table.at[problem.scope].get(mode="fill", fill_value=0)


def encode_nodes(problem: Problem, static: Static, nodes: jax.Array, graph: Context) -> jax.Array:
  """Layer-0 rows of all nodes to the vectors that are scored. Linear, for the only model with a graph."""
  vectors = static.model.encode({"user": nodes[: problem.num_users], "item": nodes[problem.num_users :]}, graph)
  return jnp.concatenate([vectors.user, vectors.item])


def _gradient(problem: Problem, static: Static, mask: jax.Array, graph: Context) -> jax.Array:
  """∇ Σ_mask weight · loss(scores) in the scoped rows, [S, d], over the given graph."""
  if graph is None:
    return _ranking_gradient(problem, static, problem.nodes, mask)
  vectors, pull_back = jax.vjp(lambda nodes: encode_nodes(problem, static, nodes, graph), problem.nodes)
  return scoped(problem, pull_back(_ranking_gradient(problem, static, vectors, mask))[0])


class Gram(NamedTuple):
  """WMF's sum over all entries, c₀ ⟨PᵀP, QᵀQ⟩: c₀, [d, d] of the counted users and of the items, their numbers."""

  weight: float
  user: jax.Array
  item: jax.Array
  num_users: jax.Array
  num_items: int


def has_pairs(problem: Problem, mask: jax.Array) -> jax.Array:
  """bool [U]: users with an example in `mask`; the others enter no loss at all."""
  zeros = jnp.zeros(problem.num_users, bool)
  return zeros.at[problem.examples.user].max(mask & (problem.examples.weight > 0))


def gram_of(problem: Problem, static: Static, counted: jax.Array) -> Gram:
  """WMF's sum over all entries, of the users in `counted` (bool [U]) and all items."""
  users, items = problem.nodes[: problem.num_users] * counted[:, None], problem.nodes[problem.num_users :]
  weight = static.model.config.unobserved_weight
  return Gram(weight, users.T @ users, items.T @ items, jnp.sum(counted.astype(jnp.int32)), items.shape[0])


@functools.partial(jax.jit, static_argnames=("static",))
@jax.default_matmul_precision("highest")
def forgotten_gradient(problem: Problem, *, static: Static) -> tuple[jax.Array, jax.Array]:
  """The gradient that disappears with the request, in the scoped rows: two arrays [S, d].

  Returns:
    direct, Σ_forgotten w ∇ℓ over the old graph; and spillover, Σ_spilled w (∇ℓ over the old graph − ∇ℓ over the new).
    At a stationary point their sum is minus the gradient of the retained objective. The gradient that training left
    over is in neither: adding it would be continued training.
  """
  rows = scoped(problem, problem.nodes)
  direct = _gradient(problem, static, problem.forgotten, problem.graph_before)
  direct += static.model.config.l2 * row_weight(problem, static, problem.forgotten)[:, None] * rows
  if static.kind == "squares":
    # A user without any pair left takes their unobserved entries along.
    retained = (problem.examples.weight > 0) & ~problem.forgotten
    gone = has_pairs(problem, problem.forgotten) & ~has_pairs(problem, retained)
    gram = gram_of(problem, static, gone)
    of_user = (problem.scope < problem.num_users)[:, None]
    leaves = gone[jnp.minimum(problem.scope, problem.num_users - 1)][:, None] & of_user
    moved = jnp.where(of_user, jnp.where(leaves, rows @ gram.item, 0.0), rows @ gram.user)
    direct += 2.0 * gram.weight * moved
  if problem.graph_before is None:
    return direct, jnp.zeros_like(direct)
  old = _gradient(problem, static, problem.spilled, problem.graph_before)
  return direct, old - _gradient(problem, static, problem.spilled, problem.graph_after)
