import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from jaxunlearn import linalg, models
from jaxunlearn.base import Batch
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.requests import Request
from jaxunlearn.sampling import users_batch
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn import _curvature, _influence
from jaxunlearn.unlearn import ifru as module
from jaxunlearn.unlearn._importance import importance, pruned_scope
from jaxunlearn.unlearn.ifru import IFRUConfig, unlearn
from jaxunlearn.unlearn.ifru import ifru as factory
from tests.small import random_pairs

SMALL = {
  "bprmf": models.bprmf(models.BPRMFConfig(embedding_dim=3, init_scale=0.7, l2=0.05)),
  "wmf": models.wmf(models.WMFConfig(embedding_dim=3, init_scale=0.7, l2=0.05, unobserved_weight=0.3)),
  "lightgcn": models.lightgcn(models.LightGCNConfig(embedding_dim=3, num_layers=2, init_scale=0.7, l2=0.05)),
  "neumf": models.neumf(models.NeuMFConfig(embedding_dim=2, hidden=(4, 3), init_scale=0.7, l2=0.05)),
}
MF = models.bprmf(models.BPRMFConfig(embedding_dim=8, l2=1e-2))


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


class Case(NamedTuple):
  """A small problem, its parameters in float64, and the positions of the scoped rows in the flat parameters."""

  problem: _influence.Problem
  static: _influence.Static
  params: dict
  data: Interactions
  forget: Interactions
  rows: np.ndarray


def make_case(model, *, forget_user=None, seed=0, num_pairs=60, every=9, **changes):
  """12 users × 9 items; every 9th pair is forgotten, or one user whole."""
  data = random_pairs(seed, num_users=12, num_items=9, num_pairs=num_pairs)
  forget = data.select(np.arange(0, len(data), every)) if forget_user is None else data.select(data.user == forget_user)
  config = IFRUConfig.preset(model.name, **{"num_negatives": 2, **changes})
  retained = data.without(forget)
  with jax.enable_x64(False):  # in single precision, as they are used
    params = model.init(jax.random.key(3), 12, 9)
    problem, static, _ = module._problem(jax.random.key(5), model, params, data, retained, forget, config)
  params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
  problem = problem.replace(
    nodes=problem.nodes.astype(jnp.float64),
    rest={name: leaf for name, leaf in params.items() if name not in ("user", "item")},
  )
  scope = np.asarray(problem.scope)
  return Case(problem, static, params, data, forget, scope[scope < 21])


def model_objective(case, mask, graph):
  """Σ_mask weight · the model's own loss, straight from `model.loss`, as a function of both tables."""
  problem, model = case.problem, case.static.model
  mask = np.asarray(mask) & (np.asarray(problem.examples.weight) > 0)
  users = problem.num_users

  def of_nodes(nodes):
    params = {**case.params, "user": nodes[:users], "item": nodes[users:]}
    user, positive = np.asarray(problem.examples.user)[mask], np.asarray(problem.examples.positive)[mask] - users
    if model.batches == "users":
      pairs = Interactions.from_pairs(user, positive, num_users=users, num_items=nodes.shape[0] - users).padded()
      active = np.unique(user).astype(np.int32)
      return model.loss(params, None, users_batch(pairs, jnp.asarray(active), 256)) * active.size
    weight = problem.examples.weight[mask].astype(jnp.float64)
    negative = problem.examples.negative[mask] - users
    batch = Batch(jnp.asarray(user), jnp.asarray(positive), negative, weight)
    return model.loss(params, graph, batch) * jnp.sum(weight)

  return of_nodes


def dense_product(objective, nodes, vector):
  """The objective's Hessian over all rows, times a vector."""
  return np.asarray(jax.jit(functools.partial(linalg.hvp, objective))(nodes, vector))


def masks(case):
  real = np.asarray(case.problem.examples.weight) > 0
  forgotten = np.asarray(case.problem.forgotten)
  return real, forgotten, real & ~forgotten


@pytest.mark.parametrize("name", list(SMALL))
def test_the_gradient_is_what_the_models_own_loss_loses_with_the_request(x64, name):
  for forget_user in (None, 4):
    case = make_case(SMALL[name], forget_user=forget_user)
    real, _, retained = masks(case)
    problem = case.problem
    before = jax.jit(jax.grad(model_objective(case, real, problem.graph_before)))(problem.nodes)
    after = jax.jit(jax.grad(model_objective(case, retained, problem.graph_after)))(problem.nodes)
    direct, spillover = _influence.forgotten_gradient(problem, static=case.static)
    got = np.asarray(direct + spillover)
    np.testing.assert_allclose(got[: case.rows.size], np.asarray(before - after)[case.rows], rtol=1e-6, atol=1e-9)
    assert not np.any(got[case.rows.size :])
    assert (name == "lightgcn") == bool(np.any(np.asarray(spillover) != 0))


@pytest.mark.parametrize("hessian", ["retained", "full"])
@pytest.mark.parametrize("name", list(SMALL))
def test_the_product_is_the_hessian_of_the_models_own_loss_on_the_scoped_block(x64, name, hessian):
  case = make_case(SMALL[name], hessian=hessian)
  problem = case.problem
  real, _, retained = masks(case)
  over = real if hessian == "full" else retained
  graph = problem.graph_before if hessian == "full" else problem.graph_after
  objective = model_objective(case, over, graph)
  vector = np.zeros((problem.scope.shape[0], problem.nodes.shape[1]))
  vector[: case.rows.size] = np.random.default_rng(0).normal(size=(case.rows.size, vector.shape[1]))
  spread = jnp.zeros_like(problem.nodes).at[case.rows].set(vector[: case.rows.size])
  expected = dense_product(objective, problem.nodes, spread)[case.rows]
  system = _curvature.build_system(problem, case.static)
  got = np.asarray(_curvature.curvature_product(problem, system, case.static, jnp.asarray(vector)))
  np.testing.assert_allclose(got[: case.rows.size], expected, rtol=1e-6, atol=1e-8)
  # One hop further, a retained pair that no scoped row is part of would change nothing; the other Hessian does.
  other = model_objective(case, retained if hessian == "full" else real, graph)
  assert not np.allclose(expected, dense_product(other, problem.nodes, spread)[case.rows], rtol=1e-3)


@pytest.mark.parametrize("name", ["bprmf", "wmf", "lightgcn"])
def test_the_gauss_newton_product_is_the_hessian_with_linearised_scores(x64, name):
  case = make_case(SMALL[name], solver="ggn_cg")
  problem, model, users = case.problem, case.static.model, case.problem.num_users
  _, _, retained = masks(case)
  user = np.asarray(problem.examples.user)[retained]
  positive = np.asarray(problem.examples.positive)[retained]
  negative = np.asarray(problem.examples.negative)[retained]
  weight = problem.examples.weight[retained].astype(jnp.float64)

  def all_scores(nodes):
    vectors = model.encode({"user": nodes[:users], "item": nodes[users:]}, problem.graph_after)
    return vectors.user @ vectors.item.T

  def outer(scores):
    chosen = scores[user, positive - users]
    if name == "wmf":
      observed = jnp.sum((1 - chosen) ** 2 - 0.3 * chosen**2)
      active = np.unique(user)
      return observed + 0.3 * jnp.sum(scores[active] ** 2)
    return jnp.sum(weight * jnp.mean(jax.nn.softplus(scores[user[:, None], negative - users] - chosen[:, None]), 1))

  weight_of_row = np.zeros(21)
  np.add.at(weight_of_row, user, weight)
  np.add.at(weight_of_row, positive, weight)
  np.add.at(weight_of_row, negative, np.broadcast_to(np.asarray(weight)[:, None] / 2, negative.shape))
  vector = np.random.default_rng(0).normal(size=(case.rows.size, 3))
  spread = jnp.zeros_like(problem.nodes).at[case.rows].set(vector)
  dense = jax.jit(functools.partial(linalg.gauss_newton_product, all_scores, outer))(problem.nodes, spread)
  expected = np.asarray(dense)[case.rows] + 0.05 * weight_of_row[case.rows, None] * vector
  padded = jnp.zeros((problem.scope.shape[0], 3)).at[: case.rows.size].set(vector)
  system = _curvature.build_system(problem, case.static)
  got = _curvature.curvature_product(problem, system, case.static, padded)
  np.testing.assert_allclose(np.asarray(got)[: case.rows.size], expected, rtol=1e-6, atol=1e-8)


def frozen_items(case):
  """The same request where users alone may move: convex in them."""
  users = np.unique(case.rows[case.rows < case.problem.num_users])
  size, nodes = case.problem.scope.shape[0], case.problem.nodes.shape[0]
  scope, slot = np.full(size, nodes, np.int32), np.full(nodes, size, np.int32)
  scope[: users.size], slot[users] = users, np.arange(users.size)
  return case._replace(problem=case.problem.replace(scope=jnp.asarray(scope), slot=jnp.asarray(slot)), rows=users)


def minimise(objective, nodes, rows):
  """Newton's method with the dense Hessian of the given rows, to machine precision."""

  def of_rows(x):
    return objective(nodes.at[rows].set(x))

  @jax.jit
  def step(x):
    hessian = jax.hessian(of_rows)(x).reshape(x.size, x.size)
    return x - jnp.linalg.solve(hessian, jax.grad(of_rows)(x).reshape(-1)).reshape(x.shape)

  x = jnp.zeros_like(nodes[rows])  # where a logistic loss is steepest: Newton converges from there
  for _ in range(30):
    x = step(x)
  assert float(jnp.max(jnp.abs(jax.jit(jax.grad(of_rows))(x)))) < 1e-9
  return nodes.at[rows].set(x)


def solved(case, **changes):
  """The step of a case, with neither damping nor a loose tolerance in the way."""
  direct, spillover = _influence.forgotten_gradient(case.problem, static=case.static)
  step, gone = _curvature.solve(
    case.problem,
    direct + spillover,
    jnp.float64(changes.get("damping", 0.0)),
    jnp.int32(changes.get("max_iterations", 200)),
    jnp.float64(1e-13),
    jnp.float64(0.01),
    static=case.static,
  )
  return step, gone


def test_with_items_frozen_wmf_is_ridge_regression_and_the_step_is_retraining(x64):
  case = frozen_items(make_case(SMALL["wmf"]))
  real, _, retained = masks(case)
  nodes = minimise(model_objective(case, real, None), case.problem.nodes, case.rows)
  case = case._replace(problem=case.problem.replace(nodes=nodes))
  wanted = minimise(model_objective(case, retained, None), nodes, case.rows)
  step, _ = solved(case)
  np.testing.assert_allclose(nodes[case.rows] + step.x[: case.rows.size], wanted[case.rows], rtol=1e-10, atol=1e-10)
  assert float(jnp.linalg.norm(step.x)) > 0.05


def test_on_a_convex_problem_the_step_is_most_of_retraining_and_the_retained_hessian_matters(x64):
  """BPR with items frozen: facts §3.7 measured 0.09 (retained) against 0.61 (full) of the original-retrained gap."""
  model = models.bprmf(models.BPRMFConfig(embedding_dim=4, init_scale=1.0, l2=0.02))
  case = frozen_items(make_case(model, user_weight_power=0.5, num_negatives=4))
  real, forgotten, retained = masks(case)
  nodes = minimise(model_objective(case, real, None), case.problem.nodes, case.rows)
  case = case._replace(problem=case.problem.replace(nodes=nodes))
  wanted = minimise(model_objective(case, retained, None), nodes, case.rows)
  gap = float(jnp.linalg.norm(wanted - nodes))

  def error(over, sign=1.0, factor=1.0):
    step, _ = solved(case._replace(problem=case.problem.replace(curved=jnp.asarray(over))))
    moved = nodes[case.rows] + sign * factor * step.x[: case.rows.size]
    return float(jnp.linalg.norm(moved - wanted[case.rows])) / gap

  right = error(retained)
  assert right < 0.2
  assert error(real) > 1.5 * right  # the Hessian is taken on what is retained
  assert error(retained, sign=-1.0) > 1.5  # the sign is plus
  share = forgotten.sum() / retained.sum()
  assert error(retained, factor=share) > 3 * right  # g is a sum: no second n_f / n_r
  assert error(retained, factor=1 / share) > 3 * right


def test_leaving_one_pair_out_moves_its_score_as_retraining_does(x64):
  """Items frozen, so that retraining has one answer; a scatter of predicted against exact changes, its correlation."""
  model = models.bprmf(models.BPRMFConfig(embedding_dim=4, init_scale=1.0, l2=0.05))
  case = make_case(model, num_negatives=4)
  users = np.arange(12)
  case = frozen_items(case._replace(rows=users))
  problem, examples = case.problem, case.problem.examples
  items, real = problem.nodes[12:], masks(case)[0]
  weight = examples.weight.astype(jnp.float64)

  def objective(x, weight):
    user, positive, negative = x[examples.user], items[examples.positive - 12], items[examples.negative - 12]
    margin = jnp.sum(user * positive, 1)[:, None] - jnp.sum(user[:, None] * negative, 2)
    ranking = jnp.mean(jax.nn.softplus(-margin), axis=1)
    return jnp.sum(weight * (ranking + 0.05 * 0.5 * jnp.sum(user**2, 1))) + 1e-9 * jnp.sum(x**2)

  @jax.jit
  def retrain(weight):
    def step(_, x):
      hessian = jax.hessian(objective)(x, weight).reshape(x.size, x.size)
      return x - jnp.linalg.solve(hessian, jax.grad(objective)(x, weight).reshape(-1)).reshape(x.shape)

    return jax.lax.fori_loop(0, 25, step, jnp.zeros((12, 4)))

  original = retrain(weight)
  problem = problem.replace(nodes=problem.nodes.at[:12].set(original))
  predicted, exact = [], []
  for at in np.flatnonzero(real)[::3]:
    forgotten = np.zeros(real.size, bool)
    forgotten[at] = True
    one = problem.replace(forgotten=jnp.asarray(forgotten), curved=jnp.asarray(real & ~forgotten))
    step, _ = solved(case._replace(problem=one))
    user, item = int(examples.user[at]), items[int(examples.positive[at]) - 12]
    predicted.append(float(step.x[user] @ item))
    exact.append(float((retrain(jnp.where(forgotten, 0.0, weight)) - original)[user] @ item))
  assert len(exact) > 12 and np.mean(exact) < -0.1  # what is forgotten scores lower
  assert np.corrcoef(predicted, exact)[0, 1] > 0.95
  assert 0.6 < np.polyfit(exact, predicted, 1)[0] < 1.4


def test_the_sums_stand_for_means_times_the_share_of_the_forgotten(x64):
  case = make_case(SMALL["bprmf"], user_weight_power=0.0)
  _, forgotten, retained = masks(case)
  damping, problem = 5.0, case.problem
  step, _ = solved(case, damping=damping)
  assert int(step.code) == linalg.CONVERGED
  n_f, n_r = forgotten.sum(), retained.sum()

  def mean_of(mask, count):
    objective = model_objective(case, mask, None)
    return lambda x: objective(problem.nodes.at[case.rows].set(x.reshape(-1, 3))) / count

  x = problem.nodes[case.rows].reshape(-1)
  hessian, gradient = jax.jit(jax.hessian(mean_of(retained, n_r)))(x), jax.jit(jax.grad(mean_of(forgotten, n_f)))(x)
  unit = np.zeros(21)
  user, positive, negative = (
    np.asarray(a)[retained] for a in (problem.examples.user, problem.examples.positive, problem.examples.negative)
  )
  np.add.at(unit, user, 1 / n_r)
  np.add.at(unit, positive, 1 / n_r)
  np.add.at(unit, negative, 0.5 / n_r)
  ridge = jnp.diag(jnp.repeat(jnp.asarray(unit[case.rows]), 3))
  expected = (n_f / n_r) * jnp.linalg.solve(hessian + damping * ridge, gradient)
  np.testing.assert_allclose(step.x[: case.rows.size].reshape(-1), expected, rtol=1e-7, atol=1e-10)
  with jax.enable_x64(False):  # and so from the outside, in single precision
    config = IFRUConfig(num_negatives=2, user_weight_power=0.0, damping=damping, tolerance=1e-6)
    params = SMALL["bprmf"].init(jax.random.key(3), 12, 9)
    served = unlearn(jax.random.key(5), SMALL["bprmf"], params, case.data, case.forget, config).state.params
  change = np.concatenate([served[side] - params[side] for side in ("user", "item")])[case.rows]
  np.testing.assert_allclose(change.reshape(-1), expected, rtol=1e-3, atol=2e-6)
  lost = jax.jit(model_objective(case, forgotten, None))
  moved = problem.nodes.at[case.rows].add(step.x[: case.rows.size])
  assert lost(moved) > lost(problem.nodes)  # what is forgotten has a higher loss afterwards


def test_twice_the_forgotten_pairs_is_twice_the_gradient_and_the_step(x64):
  case = make_case(SMALL["bprmf"])
  once, _ = solved(case, damping=5.0)
  examples = case.problem.examples
  twice = examples.replace(weight=examples.weight * (1 + case.problem.forgotten))
  doubled = case._replace(problem=case.problem.replace(examples=twice))
  first, second = (_influence.forgotten_gradient(c.problem, static=c.static)[0] for c in (case, doubled))
  assert np.array_equal(2 * first, second) and np.any(np.asarray(first) != 0)
  np.testing.assert_allclose(solved(doubled, damping=5.0)[0].x, 2 * once.x, rtol=1e-9, atol=1e-12)


def test_a_graph_of_no_layers_has_no_spillover_and_is_bprmf(x64):
  """The two ways of solving, compact and over all vectors, are twins where propagation is the identity."""
  flat = models.lightgcn(models.LightGCNConfig(embedding_dim=3, num_layers=0, init_scale=0.7, l2=0.05))
  common = {"hops": 1, "keep_fraction": 0.5, "damping": 5.0}
  graph, plain = make_case(flat, **common), make_case(SMALL["bprmf"], **common)
  direct, spillover = _influence.forgotten_gradient(graph.problem, static=graph.static)
  assert not np.any(np.asarray(spillover)) and np.any(np.asarray(direct))
  np.testing.assert_allclose(solved(graph, damping=5.0)[0].x, solved(plain, damping=5.0)[0].x, rtol=1e-6, atol=1e-10)


def test_the_released_iteration_is_adam_on_the_quadratic(x64):
  case = make_case(SMALL["bprmf"], solver="adam")
  objective = model_objective(case, masks(case)[2], None)
  x = case.problem.nodes[case.rows].reshape(-1)
  hessian = jax.jit(jax.hessian(lambda x: objective(case.problem.nodes.at[case.rows].set(x.reshape(-1, 3)))))(x)
  gradient = _influence.forgotten_gradient(case.problem, static=case.static)[0][: case.rows.size].reshape(-1)
  optimizer, p = optax.adam(0.01), jnp.zeros_like(x)
  state = optimizer.init(p)
  for _ in range(4):
    updates, state = optimizer.update(hessian @ p - gradient, state)
    p = p + updates
  step, _ = solved(case, max_iterations=4)
  np.testing.assert_allclose(step.x[: case.rows.size].reshape(-1), p, rtol=1e-5, atol=1e-8)
  relative = jnp.linalg.norm(gradient - hessian @ p) / jnp.linalg.norm(gradient)
  assert float(step.residual_norm) == pytest.approx(float(relative), rel=1e-4)


def test_importance_equals_the_definition_and_pruning_keeps_the_endpoints():
  data = random_pairs(2, num_users=14, num_items=11, num_pairs=50)
  forget = data.select(np.arange(0, len(data), 13))
  pairs, gone = (list(zip(x.user.tolist(), x.item.tolist(), strict=True)) for x in (data, forget))
  nodes = [("u", u) for u in range(14)] + [("i", i) for i in range(11)]
  near = {n: [] for n in nodes}
  for u, i in pairs:
    near["u", u].append(("i", i))
    near["i", i].append(("u", u))
  count = {n: sum(1 for u, i in gone if n in (("u", u), ("i", i))) for n in nodes}
  score = {n: count[n] / (1 + len(near[n])) for n in nodes}
  for hops in range(3):
    user, item = importance(data, forget, hops)
    np.testing.assert_allclose(np.concatenate([user, item]), [score[n] for n in nodes], rtol=1e-12)
    score = {n: (score[n] + sum(score[w] for w in near[n])) / (1 + len(near[n])) for n in nodes}
  endpoints = np.concatenate([forget.user_degrees(), forget.item_degrees()]) > 0
  whole = np.concatenate(pruned_scope(data, forget, hops=1, keep_fraction=1.0))
  half = np.concatenate(pruned_scope(data, forget, hops=1, keep_fraction=0.5))
  free = np.concatenate(pruned_scope(data, forget, hops=1, keep_fraction=0.5, force_endpoints=False))
  assert np.all(half[endpoints]) and free.sum() <= 0.5 * whole.sum() + 1
  assert np.array_equal(half, free | endpoints) and not np.any(half & ~whole)
  assert np.array_equal(np.concatenate(pruned_scope(data, forget, hops=0, keep_fraction=1.0)), endpoints)


def test_spillover_by_degree_ratio_counts_the_pairs_of_nodes_that_lost_enough():
  data = random_pairs()
  forget = data.select(np.arange(0, len(data), 40))
  got = module._spilled(data, forget, 512, IFRUConfig(spillover="degree_ratio", degree_ratio=0.06))
  for at in range(len(data)):
    u, i = data.user[at], data.item[at]
    lost = [
      np.sum(part.user == u) / np.sum(data.user == u)
      if side == "user"
      else np.sum(part.item == i) / np.sum(data.item == i)
      for part, side in ((forget, "user"), (forget, "item"))
    ]
    assert got[at] == (max(lost) > 0.06)
  assert 0 < got.sum() < len(data) and not got[len(data) :].any()


QUICK = IFRUConfig(damping=1.0)


def setup(model=MF, count=9):
  data = random_pairs()
  forget = data.select(np.sort(np.random.default_rng(0).choice(len(data), count, replace=False)))
  return data, forget, model.init(jax.random.key(0), data.num_users, data.num_items)


def test_rows_outside_the_scope_and_the_tower_are_returned_bitwise():
  for model in (MF, models.neumf()):
    data, forget, params = setup(model)
    result = unlearn(jax.random.key(1), model, params, data, forget, QUICK)
    for side, degrees in (("user", forget.user_degrees()), ("item", forget.item_degrees())):
      got, old = np.asarray(result.state.params[side]), np.asarray(params[side])
      assert np.array_equal(got[degrees == 0], old[degrees == 0])
      assert np.all(np.any(got[degrees > 0] != old[degrees > 0], axis=1))
    assert result.info["users_touched"] == np.unique(forget.user).size
    assert result.info["spillover_norm"] == 0.0 < result.info["direct_norm"]
    if "tower" in params:
      same = jax.tree.map(np.array_equal, result.state.params["tower"], params["tower"])
      assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("hessian", ["retained", "full"])
def test_a_user_without_a_pair_left_becomes_zero(hessian):
  data, _, params = setup()
  forget = data.select(data.user == 4)
  result = unlearn(jax.random.key(1), MF, params, data, forget, dataclasses.replace(QUICK, hessian=hessian))
  assert not np.any(np.asarray(result.state.params["user"][4])) and result.info["rows_zeroed"] == 1
  assert np.all(np.isfinite(result.state.params["item"]))


def test_the_empty_request_is_the_identity():
  data, forget, params = setup()
  none = data.select(np.zeros(len(data), bool))
  result = unlearn(jax.random.key(1), MF, params, data, none, QUICK)
  assert result.state.params is params and result.state.interactions is data
  unlearner = factory(MF, TrainConfig(num_epochs=1, batch_size=64), QUICK)
  state = unlearner.fit(jax.random.key(0), data)
  assert unlearner.unlearn(jax.random.key(1), state, Request()).state is state
  assert unlearner.guarantee == "approximate" and unlearner.name == "ifru"


@pytest.mark.parametrize("name", ["bprmf", "lightgcn"])
def test_a_second_request_of_another_size_does_not_trace_again(name):
  data, _, _ = setup()
  unlearner = factory(SMALL[name], TrainConfig(num_epochs=1, batch_size=64), IFRUConfig.preset(name, damping=1.0))
  state = unlearner.fit(jax.random.key(0), data)
  first = data.select(np.arange(0, 40, 4))
  state = unlearner.unlearn(jax.random.key(1), state, first).state
  programs = (_influence.draw_examples, _influence.forgotten_gradient, _curvature.solve)
  traced = [program._cache_size() for program in programs]
  assert all(traced)
  second = state.interactions.select(np.arange(3, 60, 20))
  state = unlearner.unlearn(jax.random.key(2), state, second).state
  assert [program._cache_size() for program in programs] == traced
  assert len(state.interactions) == len(data) - len(first) - len(second)
  assert not state.interactions.contains(first.union(second)).any()


def test_negative_curvature_raises_the_damping_and_then_says_so():
  data, forget, params = setup()
  params = jax.tree.map(lambda x: 20 * x, params)  # far from any minimum
  config = IFRUConfig(damping=0.0)
  result = unlearn(jax.random.key(1), MF, params, data, forget, config)
  assert result.info["damping_raises"] >= 1 and result.info["damping"] > 0 and result.info["code"] == linalg.CONVERGED
  assert result.info["residual_norm"] <= 2 * config.tolerance
  with pytest.raises(ValueError, match=r"IFRU \(cg, damping=0 after 0 raises\).*raise damping"):
    unlearn(jax.random.key(1), MF, params, data, forget, dataclasses.replace(config, max_damping_raises=0))
  with pytest.warns(UserWarning, match="raise max_iterations"):
    short = unlearn(jax.random.key(1), MF, params, data, forget, dataclasses.replace(QUICK, max_iterations=1))
  assert short.info["code"] == linalg.ITERATION_LIMIT and short.info["iterations"] == 1


def test_bad_input_is_refused():
  data, forget, params = setup()
  broken = {**params, "item": params["item"].at[3, 2].set(jnp.nan)}
  with pytest.raises(ValueError, match=r"finite values in params\['item'\], got 1 NaN"):
    unlearn(jax.random.key(0), MF, broken, data, forget, QUICK)
  huge = {**params, "user": params["user"] * 1e30, "item": params["item"] * 1e30}  # finite, their products are not
  with pytest.raises(ValueError, match="finite"):
    unlearn(jax.random.key(0), MF, huge, data, forget, QUICK)
  frozen = models.frozen(params["user"], params["item"])
  with pytest.raises(ValueError, match="bprmf, lightgcn, neumf, wmf, got"):
    unlearn(jax.random.key(0), frozen, params, data, forget, QUICK)
  with pytest.raises(ValueError, match="among the interactions"):
    unlearn(jax.random.key(0), MF, params, data.without(forget), forget, QUICK)
  for change in ({"solver": "cgg"}, {"hessian": "all"}, {"damping": -1.0}, {"keep_fraction": 1.5}, {"hops": -1}):
    with pytest.raises(ValueError, match=next(iter(change))):
      IFRUConfig(**change)


def test_the_factory_weighs_as_training_did():
  """Left to itself, the factory takes the weights and negatives of the training configuration."""
  data, forget, _ = setup()
  weights = []
  for power in (0.0, 1.0):
    examples = _influence.draw_examples(
      jax.random.key(0), data.padded(), jnp.float32(power), num_negatives=1, avoid_positives=True
    )
    weights.append(np.asarray(examples.weight)[: len(data)])
    assert not np.any(np.asarray(examples.weight)[len(data) :])
  assert np.all(weights[0] == 1)
  np.testing.assert_allclose(weights[1], 1 / data.user_degrees()[data.user], rtol=1e-6)
  training = TrainConfig(num_epochs=1, batch_size=64, user_weight_power=1.0, avoid_positives=False)
  unlearner = factory(MF, training)
  state = unlearner.fit(jax.random.key(0), data)
  got = unlearner.unlearn(jax.random.key(1), state, forget).state.params
  like = IFRUConfig.preset("bprmf", user_weight_power=1.0, avoid_positives=False)
  wanted = unlearn(jax.random.key(1), MF, state.params, data, forget, like).state.params
  other = unlearn(jax.random.key(1), MF, state.params, data, forget, IFRUConfig.preset("bprmf")).state.params
  assert np.array_equal(ravel_pytree(got)[0], ravel_pytree(wanted)[0])
  assert not np.array_equal(ravel_pytree(got)[0], ravel_pytree(other)[0])


def test_a_user_with_every_item_who_forgets_one_keeps_the_row():
  """No negative is left to weigh its examples with; that is not a user whose pairs are all forgotten."""
  num_items, others = 15, random_pairs(0, num_users=12, num_items=15, num_pairs=60)
  user = np.concatenate([others.user, np.zeros(num_items, int)])
  item = np.concatenate([others.item, np.arange(num_items)])
  data = Interactions.from_pairs(user, item, num_users=12, num_items=num_items)
  model = SMALL["lightgcn"]
  params = model.init(jax.random.key(3), 12, num_items)
  some = data.select((data.user == 0) & (data.item == 3))
  result = unlearn(jax.random.key(5), model, params, data, some)
  assert result.info["rows_zeroed"] == 0 and np.asarray(result.state.params["user"][0]).any()
  gone = unlearn(jax.random.key(5), model, params, data, data.select(data.user == 0))
  assert gone.info["rows_zeroed"] == 1 and not np.asarray(gone.state.params["user"][0]).any()
