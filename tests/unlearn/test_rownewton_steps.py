import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.unlearn import _rownewton
from jaxunlearn.unlearn import _rownewton_terms as terms
from jaxunlearn.unlearn.rownewton import unlearn
from tests.unlearn.rownewton_small import (
  DIM,
  EXACT,
  L2,
  MF,
  NMF,
  WMF,
  examples,
  member_of,
  parts_of,
  setup,
  sigmoid,
  tables,
)

KEY = jax.random.key(0)


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


@pytest.mark.parametrize("whole_users", [False, True])
def test_an_items_row_takes_the_newton_step_but_for_what_new_negatives_do_to_its_other_pairs(whole_users):
  data, forget, params = setup(MF)
  if whole_users:  # their own rows are drawn anew; what they asked of items is taken off with those that they had
    forget = data.select(np.isin(data.user, [2, 7]))
    assert not np.isin([2, 7], data.without(forget).user).any()
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

  np.testing.assert_allclose(got, jax.jit(jax.grad(taken))(params["user"]), rtol=1e-3, atol=1e-6)


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
