import dataclasses

import jax
import numpy as np
import pytest

from jaxunlearn import models
from jaxunlearn.unlearn import _rownewton, _rownewton_graph, rownewton
from jaxunlearn.unlearn import _rownewton_terms as terms
from jaxunlearn.unlearn._rownewton_graph import has_columns
from jaxunlearn.unlearn.rownewton import unlearn
from tests.unlearn.rownewton_small import (
  DIM,
  EXACT,
  GCN,
  L2,
  member_of,
  parts_of,
  setup,
  tables,
)

KEY = jax.random.key(0)


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


@pytest.mark.parametrize(
  ("leading", "columns", "whole_users"),
  [(DIM, True, False), (2, True, False), (2, False, False), (DIM, True, True), (2, False, True)],
)
def test_the_step_through_a_graph_solves_the_dense_system(monkeypatch, leading, columns, whole_users):
  """In principal axes; of a block, what is off its diagonal beyond the leading axes counts as 0."""
  if not columns:
    monkeypatch.setattr(rownewton, "has_columns", lambda rows: False)
  data, _, params = setup(GCN, num_pairs=90)
  gone_users = np.array([2, 7]) if whole_users else np.array([], int)
  forget = data.select(np.isin(data.user, gone_users) if whole_users else np.arange(2, len(data), 9))
  retained, num_users = data.without(forget), data.num_users
  config = dataclasses.replace(EXACT, coupling_steps=500, tolerance=1e-6, leading_axes=leading)
  moved = unlearn(KEY, GCN, params, data, forget, config).state.params
  new = np.concatenate(tables(moved))
  old_spread, spread, start = dense_propagation(data), dense_propagation(retained), np.concatenate(tables(params))
  fresh = {**params, "user": params["user"].at[gone_users].set(moved["user"][gone_users])}
  problem, rows, static, at = parts_of(GCN, fresh, data, forget, "bpr")
  before = terms.Point(vectors=GCN.encode(params, GCN.context(data)), rest={})
  vectors = np.concatenate(before.vectors).astype(np.float64)
  np.testing.assert_allclose(vectors, old_spread @ start, rtol=1e-4, atol=1e-5)
  lengths, basis = np.linalg.eigh(vectors.T @ vectors)
  basis, start = basis[:, ::-1], start @ basis[:, ::-1]
  assert np.all(np.diff(lengths[::-1]) < 0)
  gone = np.concatenate(terms.removed(KEY, problem, before, static=static)) @ basis
  count = np.concatenate([problem.user_count, problem.item_count])
  lost = np.concatenate([problem.user_removed, problem.item_removed])
  slope, was, curvature = (np.zeros((len(start), *shape)) for shape in ((DIM,), (DIM,), (DIM, DIM)))
  inside = []
  stored, first = _rownewton.store(KEY, problem, rows, at, before, static=static), 0
  kept = np.eye(DIM, dtype=bool)
  kept[:leading, :leading] = True
  means = {}
  blocks = np.where(kept, basis.T @ np.asarray(stored.block, np.float64) @ basis, 0.0)
  for side, shift, everyone in (("user", 0, slice(0, num_users)), ("item", num_users, slice(num_users, None))):
    num, mine = int(rows[side].count), slice(first, first + int(rows[side].count))
    first += rows[side].index.shape[0]
    index = np.asarray(rows[side].index[:num]) + shift
    means[side] = np.sum(blocks[mine], axis=0) / count[index].sum() if count[index].any() else None
    curvature[everyone] = count[everyone, None, None] * (0.0 if means[side] is None else means[side])
    curvature[index] = blocks[mine]
    slope[index], was[index] = stored.gradient[mine] @ basis, stored.before[mine] @ basis
    was[index] += gone[index]
    inside.extend(index)
  if whole_users:  # none of their examples is left: for the users who stay, the mean block is the items'
    assert means["user"] is None and not retained.user_degrees()[gone_users].any()
    staying = np.setdiff1d(np.arange(num_users), gone_users)
    curvature[staying] = count[staying, None, None] * means["item"]
  assert retained.item_degrees()[forget.item].all() and retained.user_degrees()[forget.user].all() != whole_users
  right = (old_spread @ was - spread @ slope + L2 * lost[:, None] * start)[inside].reshape(-1)
  system = np.einsum("ab,bij,bc->aicj", spread, curvature, spread)
  system += np.einsum("ac,ij->aicj", np.diag(L2 * count), np.eye(DIM))
  small = system[np.ix_(inside, range(DIM), inside, range(DIM))].reshape(len(right), -1)
  emptied = np.repeat(np.isin(inside, gone_users), DIM)  # rows without examples stay where they were drawn
  small[emptied], right[emptied] = np.eye(len(right))[emptied], 0.0
  step = np.linalg.solve(small, right).reshape(-1, DIM)
  start[gone_users] = np.asarray(moved["user"])[gone_users] @ basis
  np.testing.assert_allclose(new[inside], (start[inside] + step) @ basis.T, rtol=2e-3, atol=2e-4 * np.abs(step).max())


@pytest.mark.parametrize("most", [8, 32])
def test_columns_of_the_propagation_give_what_products_give(monkeypatch, most):
  data, forget, params = setup(GCN, count=4)
  config = dataclasses.replace(EXACT, num_rounds=2, scope="all", coupling_steps=100, tolerance=1e-6)
  monkeypatch.setattr(_rownewton_graph, "TILE", most)  # all rows are more than 8, and no more than 32
  asked = []
  monkeypatch.setattr(rownewton, "has_columns", lambda rows: asked.append(has_columns(rows)) or asked[-1])
  with_columns = unlearn(KEY, GCN, params, data, forget, config)
  assert asked[0] and all(asked) == (most == 32)
  monkeypatch.setattr(rownewton, "has_columns", lambda rows: False)
  with_products = unlearn(KEY, GCN, params, data, forget, config)
  for side in params:
    np.testing.assert_allclose(with_columns.state.params[side], with_products.state.params[side], rtol=1e-3, atol=1e-4)


def test_the_scorer_serves_the_new_rows_over_the_retained_graph():
  data, forget, params = setup(GCN)
  result = unlearn(KEY, GCN, params, data, forget)
  expected = GCN.encode(result.state.params, GCN.context(data.without(forget)))
  served = rownewton.rownewton(GCN).scorer(result.state).vectors
  assert np.array_equal(served.user, expected.user) and np.array_equal(served.item, expected.item)
