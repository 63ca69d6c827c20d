import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.unlearn import _rownewton, _rownewton_draws, _rownewton_problem, _rownewton_sums
from jaxunlearn.unlearn import _rownewton_terms as terms
from jaxunlearn.unlearn.rownewton import unlearn
from tests.unlearn.rownewton_small import EXACT, GCN, MF, parts_of, setup

KEY = jax.random.key(0)


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
    assert np.linalg.norm(got - want) <= 0.04 * np.linalg.norm(want)


def test_a_users_draws_are_spread_over_its_pairs():
  chunk, most = 8, 4
  for least in (1, 20):
    static = terms.Static(
      "bpr",
      None,
      True,
      num_negatives=most // 2,
      row_negatives=least,
      pool=1,
      item_draws=1,
      pair_negatives=1,
      leading_axes=1,
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


def test_pools_are_those_of_the_users_whose_items_are_affected_and_do_not_depend_on_the_step(monkeypatch):
  data, forget, params = setup(MF, count=2, seed=5)
  problem, rows, static, point = parts_of(MF, params, data, forget, "bpr")
  retained, named = data.without(forget), set(forget.item.tolist())
  pairs = zip(retained.user.tolist(), retained.item.tolist(), strict=True)
  expected = sorted({user for user, item in pairs if item in named})
  count = int(rows["item"].num_partners)
  assert np.asarray(rows["item"].partners)[:count].tolist() == expected and count < data.num_users
  assert 0 not in expected  # which is what the list is padded with
  args = (KEY, static, problem, [point, point], rows["item"].partners, rows["item"].num_partners)
  whole = terms.pool_odds(*args)
  others = np.setdiff1d(np.arange(data.num_users), expected)
  scores = np.asarray(point.vectors.user) @ np.asarray(point.vectors.item).T
  absent = np.ones(scores.shape)
  absent[retained.user, retained.item] = 0
  for odds, share in whole:
    np.testing.assert_allclose(odds[np.array(expected)], np.exp(-scores[expected]), rtol=1e-5)
    np.testing.assert_allclose(share[np.array(expected)], (absent / absent.sum(axis=1)[:, None])[expected], rtol=1e-6)
    assert not np.any(odds[others]) and not np.any(share[others])
  monkeypatch.setattr(terms, "_USERS", 3)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(terms.pool_odds(*args)), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("model", [MF, GCN], ids=lambda model: model.name)
def test_small_tiles_give_what_one_tile_gives(monkeypatch, model):
  data, forget, params = setup(model)
  whole = unlearn(KEY, model, params, data, forget, EXACT).state.params
  for module in (_rownewton_sums, _rownewton_problem):
    monkeypatch.setattr(module, "TILE", 4)
  tiles = unlearn(KEY, model, params, data, forget, EXACT)
  assert min(tiles.info["affected_users"], tiles.info["affected_items"]) > 4
  for side in whole:
    np.testing.assert_allclose(tiles.state.params[side], whole[side], rtol=1e-4, atol=1e-5)


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
  found = {_rownewton_problem._quarter_capacity(count, count) for count in range(1, 9000)}
  assert len(found) < 32
  few = [_rownewton_problem._quarter_capacity(count, pairs) for pairs in range(1, 33) for count in range(1, pairs + 1)]
  assert few == [next(c for c in (8, 16, 32) if pairs <= c) for pairs in range(1, 33) for _ in range(pairs)]
  for count in range(1, 9000, 7):
    capacity = _rownewton_problem._quarter_capacity(count, 9000)
    assert capacity % _rownewton_sums.TILE == 0
    assert count <= capacity < max(1.25 * count, count + _rownewton_sums.TILE)
