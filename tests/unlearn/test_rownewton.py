import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import models
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.requests import Request
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn import _rownewton, _rownewton_draws, _rownewton_problem, _rownewton_sums, rownewton
from jaxunlearn.unlearn import _rownewton_terms as terms
from jaxunlearn.unlearn._rownewton_graph import coupled_step
from jaxunlearn.unlearn._rownewton_problem import make_problem
from jaxunlearn.unlearn.rownewton import RowNewtonConfig, unlearn
from tests.small import random_pairs

KEY = jax.random.key(0)
ALL = 10_000  # above any number of items and pairs here: expectations, not draws
EXACT = RowNewtonConfig(num_negatives=ALL, pool=ALL, item_draws=ALL, pair_negatives=ALL, max_step=1e6)
DIM, L2 = 4, 0.05
MF = models.bprmf(models.BPRMFConfig(embedding_dim=DIM, l2=L2, init_scale=0.6))
WMF = models.wmf(models.WMFConfig(embedding_dim=DIM, l2=0.1, unobserved_weight=0.3, init_scale=0.6))
GCN = models.lightgcn(models.LightGCNConfig(embedding_dim=DIM, num_layers=2, l2=L2, init_scale=0.6))
NMF = models.neumf(models.NeuMFConfig(embedding_dim=2, hidden=(6, 4), l2=L2, init_scale=0.6))
MODELS = {"bprmf": MF, "wmf": WMF, "lightgcn": GCN, "neumf": NMF}
PROGRAMS = (_rownewton.sweep, _rownewton.store, coupled_step, terms.removed, rownewton._encode)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def setup(model, count=9, seed=0, **pairs):
  data = random_pairs(**{"num_users": 14, "num_items": 12, "num_pairs": 70, **pairs})
  rows = np.sort(np.random.default_rng(seed).choice(len(data), count, replace=False))
  return data, data.select(rows), model.init(jax.random.key(3), data.num_users, data.num_items)


def member_of(data):
  member = np.zeros((data.num_users, data.num_items))
  member[data.user, data.item] = 1
  return member


def tables(params):
  return np.array(params["user"], np.float64), np.array(params["item"], np.float64)


def examples(member):
  """(weight, user, positive, negative) of every example and negative that it may draw: the definition, in loops."""
  for u in range(member.shape[0]):
    absent = np.flatnonzero(member[u] == 0)
    for i in np.flatnonzero(member[u]):
      for j in absent:
        yield member[u].sum() ** -0.5 / len(absent), u, i, j


def naive_bpr(users, items, member, side, row):
  """Gradient and Hessian of the expected training objective with respect to one row, in float64."""
  gradient, hessian = np.zeros(users.shape[1]), np.zeros((users.shape[1],) * 2)
  for weight, u, i, j in examples(member):
    if side == "user" and u == row:
      towards, own = items[i] - items[j], users[u]
    elif side == "item" and row in (i, j):
      towards, own = users[u] * (1 if row == i else -1), items[row]
    else:
      continue
    x = users[u] @ (items[i] - items[j])
    gradient += weight * (L2 * own - sigmoid(-x) * towards)
    hessian += weight * (sigmoid(x) * sigmoid(-x) * np.outer(towards, towards) + L2 * np.eye(len(own)))
  return gradient, hessian


def item_gradient(users, items, member, compared, row):
  """Of an item's row; `compared` [user, item]: what a user's pair with `row` is set against."""
  gradient = np.zeros(users.shape[1])
  for u in np.flatnonzero(member.any(axis=1)):
    weight, absent = member[u].sum() ** -0.5, np.sum(member[u] == 0)
    if member[u, row]:
      against = items[np.flatnonzero(compared[u])]
      gradient += weight * (L2 * items[row] - np.mean(sigmoid((against - items[row]) @ users[u])) * users[u])
    else:
      for p in np.flatnonzero(member[u]):
        gradient += weight / absent * (sigmoid(users[u] @ (items[row] - items[p])) * users[u] + L2 * items[row])
  return gradient


def test_a_users_row_takes_the_newton_step_of_the_retained_objective():
  data, forget, params = setup(MF)
  new = unlearn(KEY, MF, params, data, forget, EXACT).state.params
  users, items = tables(params)
  before, after = member_of(data), member_of(data.without(forget))
  assert after.any(axis=1)[forget.user].all()
  for u in np.unique(forget.user):
    left, _ = naive_bpr(users, items, before, "user", u)
    gradient, hessian = naive_bpr(users, items, after, "user", u)
    # All terms of a user's row share one weight; what training had left is taken off at the weight of now.
    left *= (after[u].sum() / before[u].sum()) ** -0.5
    np.testing.assert_allclose(
      new["user"][u], users[u] - np.linalg.solve(hessian, gradient - left), rtol=2e-4, atol=2e-5
    )


def test_an_items_row_takes_the_newton_step_but_for_what_new_negatives_do_to_its_other_pairs():
  data, forget, params = setup(MF)
  new = unlearn(KEY, MF, params, data, forget, EXACT).state.params
  users, items = tables(params)
  before, after = member_of(data), member_of(data.without(forget))
  steps, exact = [], []
  for i in np.flatnonzero(after.any(axis=0) & (forget.item_degrees() > 0)):
    gradient, hessian = naive_bpr(users, items, after, "item", i)
    np.testing.assert_allclose(item_gradient(users, items, after, after == 0, i), gradient, rtol=1e-9, atol=1e-9)
    compared = np.where((before[:, i] > after[:, i])[:, None], before == 0, after == 0)
    steps.append(np.linalg.solve(hessian, item_gradient(users, items, before, compared, i) - gradient))
    np.testing.assert_allclose(new["item"][i], items[i] + steps[-1], rtol=2e-4, atol=2e-5)
    exact.append(np.linalg.solve(hessian, naive_bpr(users, items, before, "item", i)[0] - gradient))
  assert len(steps) > 3
  # What is left out is small, even here where a forgotten item is one of ten that may be drawn.
  assert np.linalg.norm(np.array(steps) - exact) < 0.2 * np.linalg.norm(exact)


def als_rows(others, member):
  """Minimisers of WMF's objective, each row on its own, the other side fixed."""
  c0, l2, rows = WMF.config.unobserved_weight, WMF.config.l2, []
  for own in (others[member_row > 0] for member_row in member):
    matrix = 2 * c0 * others.T @ others + 2 * (1 - c0) * own.T @ own + l2 * len(own) * np.eye(DIM)
    rows.append(np.linalg.solve(matrix, 2 * own.sum(axis=0)))
  return np.array(rows)


def test_on_a_ridge_problem_one_step_is_retraining_the_als_half_step_of_wmf():
  data, forget, params = setup(WMF)
  _, items = tables(params)
  retained = data.without(forget)
  params = {**params, "user": jnp.asarray(als_rows(items, member_of(data)), jnp.float32)}
  new = unlearn(KEY, WMF, params, data, forget, EXACT).state.params
  kept = retained.user_degrees() > 0
  np.testing.assert_allclose(new["user"][kept], als_rows(items, member_of(retained))[kept], rtol=1e-5, atol=1e-5)


def test_a_later_round_solves_the_items_for_the_users_it_has_moved():
  data, forget, params = setup(WMF)
  users, _ = tables(params)
  retained = member_of(data.without(forget))
  params = {**params, "item": jnp.asarray(als_rows(users, member_of(data).T), jnp.float32)}
  touched = (forget.item_degrees() > 0) & retained.any(axis=0)
  for rounds, solved in ((1, False), (2, True)):
    new = unlearn(KEY, WMF, params, data, forget, dataclasses.replace(EXACT, num_rounds=rounds)).state.params
    expected = als_rows(np.asarray(new["user"], np.float64), retained.T)[touched]
    assert np.allclose(new["item"][touched], expected, rtol=1e-4, atol=1e-4) == solved


def test_rounds_over_all_rows_end_where_retraining_from_there_ends():
  """WMF alternates closed forms to a fixed point before; every row is at one of the retained objective afterwards."""
  data, forget, params = setup(WMF)
  member, retained = member_of(data), member_of(data.without(forget))
  users, items = tables(params)
  for _ in range(1000):
    users = als_rows(items, member)
    items = als_rows(users, member.T)
  params = {**params, "user": jnp.asarray(users, jnp.float32), "item": jnp.asarray(items, jnp.float32)}
  for scope, solved in (("affected", False), ("all", True)):
    config = dataclasses.replace(EXACT, num_rounds=300, scope=scope)
    new_users, new_items = tables(unlearn(KEY, WMF, params, data, forget, config).state.params)
    kept, wanted = (
      retained.any(axis=1),
      np.concatenate([als_rows(new_items, retained), als_rows(new_users, retained.T)]),
    )
    found = np.concatenate([new_users, new_items])
    assert kept.all() and np.allclose(found, wanted, rtol=1e-4, atol=1e-5) == solved
    assert np.all(np.any(new_users != params["user"], axis=1)) == solved


def test_items_solve_wmf_without_the_users_who_have_no_pair_left():
  data, _, params = setup(WMF)
  forget = data.select(np.flatnonzero(data.user == 7))
  users, _ = tables(params)
  active, retained = np.arange(data.num_users) != 7, member_of(data.without(forget))
  params = {**params, "item": jnp.asarray(als_rows(users, member_of(data).T), jnp.float32)}
  new = unlearn(KEY, WMF, params, data, forget, EXACT).state.params
  assert data.user_degrees().all() and len(forget) > 2
  np.testing.assert_allclose(
    new["item"][forget.item], als_rows(users[active], retained[active].T)[forget.item], rtol=1e-4, atol=1e-5
  )


def parts_of(model, params, data, forget, family, train_negatives=1, **draws):
  """(problem, rows, static, point over the retained graph): what `unlearn` puts together."""
  retained = data.without(forget)
  problem, rows = make_problem(
    model, data, retained, forget, user_weight_power=0.5, train_negatives=train_negatives, damping=0.0
  )
  all_draws = {"num_negatives": ALL, "pool": ALL, "item_draws": ALL, "pair_negatives": ALL, "row_negatives": 1, **draws}
  static = terms.Static(family=family, score=model.score, inner_product=model.inner_product, **all_draws)
  rest = {name: leaf for name, leaf in params.items() if name not in ("user", "item")}
  return problem, rows, static, terms.Point(vectors=model.encode(params, model.context(retained)), rest=rest)


def test_draws_agree_with_the_expectations_they_stand_for(monkeypatch):
  monkeypatch.setattr(_rownewton_sums, "CHUNK", 8)  # so that a user's pairs draw unlike numbers of negatives
  data, forget, params = setup(MF)
  exact = parts_of(MF, params, data, forget, "bpr")
  drawn = parts_of(MF, params, data, forget, "bpr", num_negatives=3, pool=4, item_draws=6, pair_negatives=5)

  def everything(key, parts):
    problem, rows, static, point = parts
    stored = _rownewton.store(key, problem, rows, point, point, static=static)
    return jax.tree.leaves(stored), terms.removed(key, problem, point, static=static)

  keys = jax.random.split(jax.random.key(5), 300)
  mean = jax.tree.map(lambda x: np.mean(x, axis=0), jax.lax.map(lambda key: everything(key, drawn), keys))
  for got, want in zip(jax.tree.leaves(mean), jax.tree.leaves(everything(KEY, exact)), strict=True):
    assert np.linalg.norm(got - want) < 0.04 * np.linalg.norm(want)


def test_a_users_draws_are_spread_over_its_pairs():
  chunk, most = 8, 4
  for least in (1, 20):
    static = terms.Static(
      "bpr", None, True, num_negatives=most // 2, row_negatives=least, pool=1, item_draws=1, pair_negatives=1
    )
    for degree in (0, 1, 3, 5, 8, 9, 15, 40):
      total = int(_rownewton_draws.num_examples(static, jnp.int32(degree), chunk))
      assert degree <= total <= most * degree
      assert total in (most * degree, max(-(-degree // chunk) * chunk, least))
      pair, shared = _rownewton_draws.pair_of(jnp.arange(total + chunk), jnp.int32(total), jnp.int32(degree))
      assert np.all(np.diff(pair) >= 0) and np.all(pair[total:] >= degree)
      numbers = np.bincount(pair[:total], minlength=degree)
      assert len(numbers) == degree and (not degree or np.ptp(numbers) <= 1)
      np.testing.assert_array_equal(shared[:total], numbers[pair[:total]])


def test_draws_of_items_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
  data, _, params = setup(MF, num_pairs=90)
  problem, rows, static, _ = parts_of(MF, params, data, data.select(np.arange(0, len(data), 5)), "bpr", item_draws=150)
  items, count = rows["item"].index, rows["item"].count
  assert 5 < count < items.shape[0]
  whole = _rownewton_draws.item_draws(KEY, static, problem, items, count)
  monkeypatch.setattr(_rownewton_draws, "_ROWS_AT_ONCE", 5)
  for a, b in zip(
    jax.tree.leaves(whole),
    jax.tree.leaves(_rownewton_draws.item_draws(KEY, static, problem, items, count)),
    strict=True,
  ):
    np.testing.assert_array_equal(a[:count], b[:count])


def test_odds_give_the_sigmoid_of_a_difference_and_do_not_overflow():
  score = jnp.array([-300.0, -90.0, -30.0, -1.0, 0.0, 0.5, 30.0, 90.0, 300.0])
  got = 1 / (1 + terms._odds(-score)[:, None] * terms._odds(score)[None, :])
  near = jnp.abs(score) <= 40
  np.testing.assert_allclose(
    got[near][:, near], jax.nn.sigmoid(score[None, :] - score[:, None])[near][:, near], rtol=1e-5
  )
  far = jnp.sign(score)[:, None] != jnp.sign(score)[None, :]
  np.testing.assert_allclose(got[far], jax.nn.sigmoid(score[None, :] - score[:, None])[far], rtol=1e-5, atol=1e-17)


def test_capacities_of_rows_are_few_and_close():
  found = {_rownewton_problem._quarter_capacity(count) for count in range(1, 9000)}
  assert len(found) < 32
  for count in range(1, 9000, 7):
    capacity = _rownewton_problem._quarter_capacity(count)
    assert capacity % _rownewton_sums.TILE == 0
    assert count <= capacity < max(1.25 * count, count + _rownewton_sums.TILE)


def test_neumf_blocks_are_gauss_newtons_of_the_logit_with_the_training_negatives_weight():
  data, forget, params = setup(NMF)
  problem, rows, static, point = parts_of(NMF, params, data, forget, "bce", train_negatives=3)
  member = member_of(data.without(forget))
  by = jax.jit(jax.value_and_grad(lambda user, item: NMF.score(params, user, item), argnums=(0, 1)))
  stored = _rownewton.store(KEY, problem, rows, point, point, static=static)
  for number, side in enumerate(("user", "item")):
    place = int(rows[side].count) // 2
    row, block, gradient = int(rows[side].index[place]), np.zeros((4, 4)), np.zeros(4)
    for weight, u, i, j in examples(member):
      for item, label, share in ((i, 1, weight / 4), (j, 0, 3 * weight / 4)):
        if row == (u, item)[number]:
          value, slopes = by(params["user"][u], params["item"][item])
          p, slope = sigmoid(float(value)), np.asarray(slopes[number], np.float64)
          block += share * p * (1 - p) * np.outer(slope, slope)
          gradient += share * (p - label) * slope
    place += number * rows["user"].index.shape[0]
    np.testing.assert_allclose(stored.block[place], block, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(stored.gradient[place], gradient, rtol=1e-3, atol=1e-6)


def test_neumf_forgets_the_gradient_of_its_own_loss():
  data, forget, params = setup(NMF)
  problem, _, static, point = parts_of(NMF, params, data, forget, "bce", train_negatives=3)
  got = terms.removed(KEY, problem, point, static=static).user
  before, after = member_of(data), member_of(data.without(forget))
  old_odds = 1 / (before == 0).sum(axis=1)

  def taken(user_table):  # at the new weight: pairs less, and forgotten items drawn against the others
    total = 0.0
    for u, i in zip(forget.user, forget.item, strict=True):
      score = lambda item: NMF.score(params, user_table[u], params["item"][item])  # noqa: B023, E731
      away = sum(jax.nn.softplus(score(j)) for j in np.flatnonzero(before[u] == 0)) * old_odds[u]
      drawn = old_odds[u] * after[u].sum() * jax.nn.softplus(score(i))
      total += after[u].sum() ** -0.5 * (jax.nn.softplus(-score(i)) + 3 * away - 3 * drawn) / 4
    return total

  np.testing.assert_allclose(got, jax.grad(taken)(params["user"]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dim", [DIM, 20])
def test_without_layers_the_step_through_a_graph_is_that_of_the_rows(dim):
  rows = models.bprmf(models.BPRMFConfig(embedding_dim=dim, l2=L2, init_scale=0.6))
  flat = models.lightgcn(models.LightGCNConfig(embedding_dim=dim, num_layers=0, l2=L2, init_scale=0.6))
  data, forget, params = setup(rows)
  plain = unlearn(KEY, rows, params, data, forget, EXACT).state.params
  config = EXACT if dim == DIM else dataclasses.replace(EXACT, tolerance=1e-6, coupling_steps=60)
  coupled = unlearn(KEY, flat, params, data, forget, config)
  # Of few axes the preconditioner is the whole block, of more it leaves out what the later ones have in common.
  assert coupled.info["iterations"] == 1 if dim == DIM else 2 < coupled.info["iterations"] < 30
  for side in plain:
    np.testing.assert_allclose(coupled.state.params[side], plain[side], rtol=1e-4, atol=2e-5)


def dense_propagation(data):
  member = member_of(data)
  size, num_users = sum(member.shape), len(member)
  adjacency = np.zeros((size, size))
  adjacency[:num_users, num_users:], adjacency[num_users:, :num_users] = member, member.T
  scale = np.maximum(adjacency.sum(axis=1), 1) ** -0.5
  adjacency = scale[:, None] * adjacency * scale
  return (np.eye(size) + adjacency + adjacency @ adjacency) / 3


def test_the_step_through_a_graph_solves_the_dense_system():
  data, _, params = setup(GCN, num_pairs=90)
  forget = data.select(np.arange(2, len(data), 9))
  retained, num_users = data.without(forget), data.num_users
  config = dataclasses.replace(EXACT, coupling_steps=500, tolerance=1e-6)
  new = np.concatenate(tables(unlearn(KEY, GCN, params, data, forget, config).state.params))
  old_spread, spread, start = dense_propagation(data), dense_propagation(retained), np.concatenate(tables(params))
  problem, rows, static, at = parts_of(GCN, params, data, forget, "bpr")
  before = terms.Point(vectors=GCN.encode(params, GCN.context(data)), rest={})
  np.testing.assert_allclose(np.concatenate(before.vectors), old_spread @ start, rtol=1e-4, atol=1e-5)
  gone = np.concatenate(terms.removed(KEY, problem, before, static=static))
  count = np.concatenate([problem.user_count, problem.item_count])
  lost = np.concatenate([problem.user_removed, problem.item_removed])
  slope, was, curvature = (np.zeros((len(start), *shape)) for shape in ((DIM,), (DIM,), (DIM, DIM)))
  inside = []
  stored, first = _rownewton.store(KEY, problem, rows, at, before, static=static), 0
  for side, shift, everyone in (("user", 0, slice(0, num_users)), ("item", num_users, slice(num_users, None))):
    num, mine = int(rows[side].count), slice(first, first + int(rows[side].count))
    first += rows[side].index.shape[0]
    index = np.asarray(rows[side].index[:num]) + shift
    curvature[everyone] = (
      count[everyone, None, None] * np.sum(np.asarray(stored.block[mine]), axis=0) / count[index].sum()
    )
    curvature[index], slope[index], was[index] = stored.block[mine], stored.gradient[mine], stored.before[mine]
    was[index] += gone[index]
    inside.extend(index)
  assert retained.item_degrees()[forget.item].all() and retained.user_degrees()[forget.user].all()
  right = (old_spread @ was - spread @ slope + L2 * lost[:, None] * start)[inside].reshape(-1)
  system = np.einsum("ab,bij,bc->aicj", spread, curvature, spread)
  system += np.einsum("ac,ij->aicj", np.diag(L2 * count), np.eye(DIM))
  small = system[np.ix_(inside, range(DIM), inside, range(DIM))].reshape(len(right), -1)
  step = np.linalg.solve(small, right).reshape(-1, DIM)
  np.testing.assert_allclose(new[inside], start[inside] + step, rtol=2e-3, atol=2e-4 * np.abs(step).max())


@pytest.mark.parametrize("name", MODELS)
def test_rows_without_a_forgotten_pair_and_the_tower_are_bitwise_unchanged(name):
  model = MODELS[name]
  data, forget, params = setup(model)
  result = unlearn(KEY, model, params, data, forget, RowNewtonConfig(num_rounds=2, scope="affected"))
  for side, degrees in (("user", forget.user_degrees()), ("item", forget.item_degrees())):
    old, new = np.asarray(params[side]), np.asarray(result.state.params[side])
    assert np.array_equal(old[degrees == 0], new[degrees == 0])
    assert np.all(np.any(old[degrees > 0] != new[degrees > 0], axis=1))
  assert jax.tree.all(jax.tree.map(np.array_equal, params.get("tower"), result.state.params.get("tower")))
  assert result.state.interactions.digest() == data.without(forget).digest()


@pytest.mark.parametrize("name", MODELS)
def test_a_second_round_over_all_rows_moves_those_that_the_request_does_not_name(name):
  model = MODELS[name]
  data, forget, params = setup(model, count=3)
  result = unlearn(KEY, model, params, data, forget, RowNewtonConfig(num_rounds=2, scope="all"))
  for side in ("user", "item"):
    degrees, named = (getattr(pairs, f"{side}_degrees")() > 0 for pairs in (data, forget))
    moved = np.any(np.asarray(params[side]) != np.asarray(result.state.params[side]), axis=1)
    # A row stays only where no row moved that its pairs and its draws compare it with.
    assert moved[named].all() and np.mean(moved[degrees & ~named]) > 0.5 and not moved[~degrees].any()
    assert np.all(np.isfinite(result.state.params[side]))


@pytest.mark.parametrize("name", MODELS)
def test_forgotten_pairs_fall_and_a_user_without_a_pair_gets_a_new_row(name):
  model = MODELS[name]
  data = random_pairs(num_users=14, num_items=12, num_pairs=70)
  unlearner = rownewton.rownewton(model, TrainConfig(num_epochs=60, batch_size=16, learning_rate=0.02))
  state = unlearner.fit(KEY, data)
  request = Request(users=[2], pairs=[(int(data.user[k]), int(data.item[k])) for k in (1, 30, 40, 50)])
  forget = request.resolve(data)
  result = unlearner.unlearn(KEY, state, request)
  pairs = forget.select(forget.user != 2)
  old, new = (
    unlearner.scorer(s).pair_scores(jnp.asarray(pairs.user), jnp.asarray(pairs.item)) for s in (state, result.state)
  )
  assert np.mean(new) < np.mean(old)
  drawn = model.init(jax.random.fold_in(KEY, 0), data.num_users, data.num_items)["user"][2]
  np.testing.assert_allclose(result.state.params["user"][2], drawn, rtol=1e-6)
  assert result.info["fresh_users"] == 1 and result.info["num_forgotten"] == len(forget)


def test_an_item_without_a_pair_goes_from_zero_to_where_its_draws_as_a_negative_put_it():
  data, _, params = setup(MF)
  forget = data.select(np.flatnonzero(data.item == 4))
  new = unlearn(KEY, MF, params, data, forget, EXACT).state.params
  users, items = tables(params)
  items[4] = 0
  gradient, hessian = naive_bpr(users, items, member_of(data.without(forget)), "item", 4)
  np.testing.assert_allclose(new["item"][4], -np.linalg.solve(hessian, gradient), rtol=1e-3, atol=1e-5)
  elsewhere = {**params, "item": params["item"].at[4].multiply(3.0)}
  other = unlearn(KEY, MF, elsewhere, data, forget, EXACT).state.params
  np.testing.assert_allclose(other["item"][4], new["item"][4], rtol=1e-6)  # nothing of its old place is left


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_request_is_the_identity_and_another_size_does_not_trace_again(name):
  model = MODELS[name]
  data, forget, params = setup(model, count=3)
  same = unlearn(KEY, model, params, data, data.select(np.zeros(len(data), bool)))
  assert same.state.params is params and same.state.interactions is data
  first = unlearn(KEY, model, params, data, forget).state
  traced = [program._cache_size() for program in PROGRAMS]
  assert sum(traced) > 0
  more = first.interactions.select(np.arange(0, len(first.interactions), 6))
  assert len(more) > 2 * len(forget)
  second = unlearn(jax.random.key(9), model, first.params, first.interactions, more)
  assert second.info["num_forgotten"] == len(more)
  assert [program._cache_size() for program in PROGRAMS] == traced


def full_loss(params, member, l2):
  """The expected BPR objective, differentiable; member [num_users, num_items]."""
  users, items = params["user"], params["item"]
  scores, degree = users @ items.T, jnp.sum(member, axis=1)
  weight = jnp.where(degree > 0, jnp.maximum(degree, 1.0) ** -0.5, 0.0)
  odds = (1 - member) / jnp.maximum(items.shape[0] - degree, 1)[:, None]
  loss = jax.nn.softplus(scores[:, None, :] - scores[:, :, None])
  ranking = jnp.sum(weight[:, None, None] * member[:, :, None] * odds[:, None, :] * loss)
  squares = {side: 0.5 * jnp.sum(jnp.square(table), axis=1) for side, table in params.items()}
  drawn = weight @ member + (weight * degree) @ odds
  return ranking + l2 * (jnp.sum(weight * degree * squares["user"]) + jnp.sum(drawn * squares["item"]))


def descend(params, member, l2, steps):
  optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))

  def step(_, carry):
    params, state = carry
    updates, state = optimizer.update(jax.grad(full_loss)(params, member, l2), state, params)
    return optax.apply_updates(params, updates), state

  return jax.lax.fori_loop(0, steps, step, (params, optimizer.init(params)))[0]


def trained(model, data, steps=2000):
  start = model.init(jax.random.key(1), data.num_users, data.num_items)
  return jax.jit(descend, static_argnums=3)(start, jnp.asarray(member_of(data), jnp.float32), model.config.l2, steps)


def test_leaving_one_pair_out_is_predicted():
  rng = np.random.default_rng(0)
  affinity = rng.normal(size=(24, 3)) @ rng.normal(size=(3, 20)) + 0.5 * rng.normal(size=(24, 20))
  user, item = np.nonzero(affinity > np.quantile(affinity, 0.65))
  data = Interactions.from_pairs(user, item, num_users=24, num_items=20)
  model = models.bprmf(models.BPRMFConfig(embedding_dim=DIM, l2=0.1))
  params = trained(model, data, 1200)
  place, picked = np.arange(15), rng.choice(len(data), 15, replace=False)
  users, items = data.user[picked], data.item[picked]
  member = jnp.asarray(member_of(data), jnp.float32)
  without = jnp.broadcast_to(member, (15, *member.shape)).at[place, users, items].set(0.0)
  again = jax.jit(jax.vmap(descend, (None, 0, None, None)), static_argnums=3)(params, without, 0.1, 400)
  actual = np.einsum("nd,nd->n", again["user"][place, users], again["item"][place, items])
  old = np.einsum("nd,nd->n", params["user"][users], params["item"][items])
  predicted = []
  for k, u, i in zip(picked, users, items, strict=True):
    new = unlearn(KEY, model, params, data, data.select(np.array([k])), EXACT).state.params
    predicted.append(float(new["user"][u] @ new["item"][i]))
  predicted, actual = np.array(predicted) - old, actual - old
  assert np.corrcoef(predicted, actual)[0, 1] >= 0.9
  assert (
    0.85 < (predicted @ actual) / (predicted @ predicted) < 1.3
  )  # of the right size too, not only in the right order


def test_two_requests_come_out_near_one_of_both():
  data, forget, _ = setup(MF, count=8, num_users=40, num_items=30, num_pairs=500)
  params = trained(MF, data, 800)
  half = np.arange(8) % 2 == 0
  once = unlearn(KEY, MF, params, data, forget, EXACT).state
  first = unlearn(KEY, MF, params, data, forget.select(half), EXACT).state
  twice = unlearn(KEY, MF, first.params, first.interactions, forget.select(~half), EXACT).state
  assert twice.interactions.digest() == once.interactions.digest()
  for side in params:
    moved = np.linalg.norm(once.params[side] - params[side])
    assert np.linalg.norm(twice.params[side] - once.params[side]) < 0.15 * moved


def test_failure_is_loud():
  data, forget, params = setup(MF)
  with pytest.raises(ValueError, match=r"finite.*params.*user"):
    unlearn(KEY, MF, {**params, "user": params["user"].at[0, 0].set(jnp.nan)}, data, forget)
  with pytest.raises(ValueError, match="damping"):
    unlearn(KEY, MF, jax.tree.map(lambda x: x * 1e25, params), data, forget)
  with pytest.raises(ValueError, match="are not"):
    unlearn(KEY, MF, params, data.without(forget), forget)
  with pytest.raises(ValueError, match="double_sigmoid"):
    rownewton.rownewton(models.bprmf(models.BPRMFConfig(loss="double_sigmoid")))
  with pytest.raises(ValueError, match="popularity"):
    rownewton.rownewton(models.popularity())
  for field in (
    "train_negatives",
    "num_rounds",
    "num_negatives",
    "row_negatives",
    "pool",
    "item_draws",
    "pair_negatives",
    "max_step",
  ):
    with pytest.raises(ValueError, match=field):
      RowNewtonConfig(**{field: 0})
  with pytest.raises(ValueError, match="damping"):
    RowNewtonConfig(damping=-1.0)


@pytest.mark.parametrize("model", [MF, GCN], ids=["bprmf", "lightgcn"])
def test_the_cap_shortens_a_step_and_keeps_its_direction(model):
  data, forget, params = setup(model)
  free = unlearn(KEY, model, params, data, forget, EXACT).state.params["user"] - params["user"]
  held = unlearn(KEY, model, params, data, forget, dataclasses.replace(EXACT, max_step=0.05))
  got = held.state.params["user"] - params["user"]
  length = np.linalg.norm(params["user"], axis=1)
  cap = 0.05 * np.maximum(length, length.mean())
  capped = np.linalg.norm(free, axis=1) > cap
  assert capped.sum() > 2
  np.testing.assert_allclose(np.linalg.norm(got[capped], axis=1), cap[capped], rtol=1e-3)
  cosine = np.einsum("nd,nd->n", free[capped], got[capped]) / np.linalg.norm(free[capped], axis=1) / cap[capped]
  np.testing.assert_allclose(cosine, 1.0, rtol=1e-3)


def test_damping_shortens_steps_and_the_defaults_follow_the_training():
  data, forget, params = setup(MF)
  lengths = []
  for damping in (0.0, 2.0):
    new = unlearn(KEY, MF, params, data, forget, dataclasses.replace(EXACT, damping=damping)).state.params
    lengths.append(np.linalg.norm(new["user"] - params["user"]))
  assert lengths[1] < 0.5 * lengths[0]


def test_a_preset_knows_the_model_and_its_training():
  config = RowNewtonConfig.preset("bprmf", TrainConfig(user_weight_power=0.0, num_negatives=4), damping=0.5)
  assert (config.user_weight_power, config.train_negatives, config.damping) == (0.0, 4, 0.5)
  assert RowNewtonConfig.preset("neumf").damping > RowNewtonConfig.preset("bprmf").damping == 0.0


def test_the_scorer_serves_the_new_rows_over_the_retained_graph():
  data, forget, params = setup(GCN)
  result = unlearn(KEY, GCN, params, data, forget)
  expected = GCN.encode(result.state.params, GCN.context(data.without(forget)))
  served = rownewton.rownewton(GCN).scorer(result.state).vectors
  assert np.array_equal(served.user, expected.user) and np.array_equal(served.item, expected.item)
