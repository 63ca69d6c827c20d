import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import linalg, models
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.requests import Request
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn import _l2unrank_rows
from jaxunlearn.unlearn._l2unrank import influence_step
from jaxunlearn.unlearn._l2unrank_stages import high_impact
from jaxunlearn.unlearn._l2unrank_system import build_static, build_system
from jaxunlearn.unlearn.l2unrank import (
  Influence,
  L2UnRankConfig,
  combined_influence,
  influence_region,
  l2unrank,
  negative_roles,
  pair_weights,
  semantic_influence,
  structural_influence,
  unlearn,
)
from tests.small import random_pairs

MF = models.bprmf(models.BPRMFConfig(embedding_dim=6, l2=0.05))
WMF = models.wmf(models.WMFConfig(embedding_dim=6, l2=0.3, unobserved_weight=0.4))
NEUMF = models.neumf(models.NeuMFConfig(embedding_dim=3, hidden=(6, 4), l2=0.01))
# The plain product, for the dense Hessian of a test is a vmap.
GCN = models.lightgcn(models.LightGCNConfig(embedding_dim=6, num_layers=2, l2=0.05, product="segment_sum"))
ALL = [MF, WMF, NEUMF, GCN]
IDS = [model.name for model in ALL]
KEY = jax.random.key(3)
TIGHT = {"max_iterations": 400, "tolerance": 1e-6, "row_cap": 1e6}


def setup(model=MF, count=6, scale=3.0):
  data = random_pairs(num_users=14, num_items=11, num_pairs=70)
  forget = data.select(np.sort(np.random.default_rng(0).choice(len(data), count, replace=False)))
  params = model.init(jax.random.key(0), data.num_users, data.num_items)
  return data, forget, {**params, **{side: scale * params[side] for side in ("user", "item")}}


def pairs_of(interactions):
  return list(zip(interactions.user.tolist(), interactions.item.tolist(), strict=True))


# Stage 1


def test_the_support_has_an_end_in_the_scope_and_no_forgotten_pair():
  data, forget, _ = setup()
  retained = data.without(forget)
  for hops in (0, 1):
    region = influence_region(data, retained, forget, hops)
    users, items = set(forget.user.tolist()), set(forget.item.tolist())
    for _ in range(hops):
      users, items = (
        users | {u for u, i in pairs_of(data) if i in items},
        items | {i for u, i in pairs_of(data) if u in users},
      )
    assert set(np.flatnonzero(region.scope.user)) == users and set(np.flatnonzero(region.scope.item)) == items
    wanted = {pair for pair in set(pairs_of(data)) - set(pairs_of(forget)) if pair[0] in users or pair[1] in items}
    assert set(pairs_of(retained.select(region.support))) == wanted


# Stage 2


def test_influence_equals_loops_over_the_scope():
  data, forget, params = setup()
  near = influence_region(data, data.without(forget), forget, 0).scope
  vectors = MF.encode(params, None)
  structural = structural_influence(data, near)
  semantic = semantic_influence(vectors, near, forget)
  inside = [(u, i) for u, i in pairs_of(data) if near.user[u] and near.item[i]]
  tables = [np.asarray(table, np.float64) for table in vectors]
  unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
  touched = [(0, u) for u in set(forget.user.tolist())] + [(1, i) for i in set(forget.item.tolist())]
  center = unit(sum(unit(tables[side][row]) for side, row in touched))
  for side in (0, 1):
    degrees = [sum(pair[side] == v for pair in inside) for v in range(len(tables[side]))]
    for v, within in enumerate(near[side]):
      assert structural[side][v] == pytest.approx(degrees[v] / max(degrees) if within else 0)
      assert semantic[side][v] == pytest.approx((1 + unit(tables[side][v]) @ center) / 2 if within else 0, abs=1e-6)
  mixed = combined_influence(structural, semantic, near, 0.3, 0.8)
  assert mixed.user.sum() + mixed.item.sum() == pytest.approx(1)
  assert all(np.all((part >= 0) & (part <= 1)) for part in (*structural, *semantic, *mixed))
  assert mixed.item[5] / mixed.user[forget.user[0]] == pytest.approx(
    (0.3 * structural.item[5] + 0.8 * semantic.item[5])
    / (0.3 * structural.user[forget.user[0]] + 0.8 * semantic.user[forget.user[0]])
  )


def test_vectors_in_two_spaces_have_a_centre_each():
  data, forget, params = setup(NEUMF)
  near = influence_region(data, data.without(forget), forget, 0).scope
  vectors = NEUMF.encode(params, None)
  turned = vectors._replace(item=-vectors.item)
  apart, flipped = (semantic_influence(v, near, forget, joint=False) for v in (vectors, turned))
  np.testing.assert_allclose(apart.item, flipped.item)
  assert not np.allclose(semantic_influence(vectors, near, forget).user, semantic_influence(turned, near, forget).user)


def test_pair_weights_have_mean_one_on_each_set_and_add_the_ends():
  data, forget, _ = setup()
  rng = np.random.default_rng(0)
  influence = Influence(rng.random(data.num_users), rng.random(data.num_items))
  for pairs in (forget, data.without(forget)):
    weights = pair_weights(influence, pairs)
    assert weights.mean() == pytest.approx(1, rel=1e-5)
    raw = np.asarray([influence.user[u] + influence.item[i] for u, i in pairs_of(pairs)])
    np.testing.assert_allclose(weights, raw / raw.mean(), rtol=1e-6)


def test_without_weights_every_pair_counts_alike():
  data, forget, params = setup()
  near = influence_region(data, data.without(forget), forget, 0).scope
  ones = combined_influence(
    structural_influence(data, near), semantic_influence(MF.encode(params, None), near, forget), near, 0.0, 0.0
  )
  assert np.array_equal(pair_weights(ones, data), np.ones(len(data), np.float32))


def test_high_impact_keeps_the_heaviest_share_in_order():
  support = np.asarray([True, False, True, True, True])
  weight = np.asarray([1.0, 3.0, 3.0, 2.0])
  assert high_impact(support, weight, 1.0).tolist() == [0, 2, 3, 4]
  assert high_impact(support, weight, 0.5).tolist() == [2, 3]
  assert high_impact(support, weight, 0.1).tolist() == [2]


def test_negative_roles_are_an_unbiased_sample_of_the_pairs_outside():
  data, forget, _ = setup(count=2)
  retained = data.without(forget)
  region = influence_region(data, retained, forget, 0)
  outside = retained.select(~region.support)
  assert len(outside) > 5
  roles = negative_roles(np.random.default_rng(0), data, retained, region, 4000)
  degree, known = data.user_degrees(), set(pairs_of(data))
  for item in np.flatnonzero(region.scope.item).tolist():
    for user in range(data.num_users):
      rate = 0.0 if (user, item) in known else 1 / (data.num_items - degree[user])
      wanted = rate * sum(u == user for u in outside.user.tolist())
      got = roles.weight[(roles.negative == item) & (roles.user == user)].sum()
      assert got == pytest.approx(wanted, abs=0.06)
  assert set(zip(roles.user.tolist(), roles.positive.tolist(), strict=True)) <= set(pairs_of(outside))


# Stage 3: against the dense Hessian of a loss written as loops


def drawn(system, static):
  """The negatives of both sets, which are random, are read from the system; all else is written anew."""
  keys = jax.random.split(jax.random.fold_in(KEY, 1))
  sets = zip(keys, (system.forget, system.support), (static.num_negatives, static.curvature_negatives), strict=True)
  out = []
  for key, examples, count in sets:
    items = np.asarray(_l2unrank_rows.with_negatives(key, examples, system.known, count))
    out.append(items[: int(examples.count)])
  return out


def naive_loss(model, params, context, examples, config):
  """Σ weight · ℓ over (users [n], [positive, negatives] [n, 1 + S], weights [n]): ℓ, the training loss of one pair."""
  user, items, weight = examples
  vectors = model.encode(params, context)
  scores = model.score(params, vectors.user[user][:, None, :], vectors.item[items])
  first, others = scores[:, 0], scores[:, 1:]
  half_user, half_item = (0.5 * jnp.sum(params[side] ** 2, axis=1) for side in ("user", "item"))
  rows = half_user[user] + half_item[items[:, 0]]
  if model.name == "wmf":
    loss = (1 - first) ** 2 - model.config.unobserved_weight * first**2
  else:
    rows = rows + jnp.mean(half_item[items[:, 1:]], axis=1)
    if model.name == "neumf":
      negative = config.train_negatives * jnp.mean(jnp.log(1 + jnp.exp(others)), axis=1)
      loss = (jnp.log(1 + jnp.exp(-first)) + negative) / (1 + config.train_negatives)
    else:
      loss = jnp.mean(jnp.log(1 + jnp.exp(others - first[:, None])), axis=1)
  return jnp.sum(weight * (loss + model.config.l2 * rows))


def dense_step(model, data, forget, params, config):
  """The exact influence step with the Hessian of the retained loss, in the rows of the scope."""
  retained = data.without(forget)
  before, after = model.context(data), model.context(retained)
  static = build_static(model, config, propagates=before is not None)
  system, region = build_system(KEY, static, model.encode(params, before), data, retained, forget, config)
  forget_items, support_items = drawn(system, static)
  degree = data.user_degrees()
  influence = combined_influence(
    structural_influence(data, region.scope),
    semantic_influence(model.encode(params, before), region.scope, forget, joint=model.inner_product),
    region.scope, config.degree_weight, config.score_weight,
  )  # fmt: skip
  user_weight = np.ones(data.num_users) if model.name == "wmf" else degree ** -float(config.user_weight_power)
  support = retained.select(region.support)
  removed = (forget.user, forget_items, pair_weights(influence, forget) * user_weight[forget.user])
  count = len(support)
  kept = (support.user, support_items[:count], pair_weights(influence, support) * user_weight[support.user])
  rest = slice(count, len(support_items))
  roles = tuple(np.asarray(x)[rest] for x in (system.support.user, support_items, system.support.weight))
  in_hessian = tuple(np.concatenate(parts) for parts in zip(kept, roles, strict=True))
  moving = {
    "user": np.flatnonzero(region.scope.user & (retained.user_degrees() > 0)), "item": np.flatnonzero(region.scope.item)
  }  # fmt: skip
  start = {side: params[side][rows] for side, rows in moving.items()}
  flat, unravel = jax.flatten_util.ravel_pytree(start)

  def full(x):
    return {**params, **{side: params[side].at[moving[side]].set(rows) for side, rows in unravel(x).items()}}

  def retained_loss(x):
    total = naive_loss(model, full(x), after, in_hessian, config)
    if model.name == "wmf":
      present = jnp.asarray(retained.user_degrees() > 0)[:, None]
      total += model.config.unobserved_weight * jnp.sum(((full(x)["user"] * present) @ full(x)["item"].T) ** 2)
    return total

  rhs = jax.jit(jax.grad(lambda x: naive_loss(model, full(x), before, removed, config)))(flat)
  if before is not None:
    rhs += jax.jit(jax.grad(lambda x: naive_loss(model, full(x), before, kept, config)))(flat)
    rhs -= jax.jit(jax.grad(lambda x: naive_loss(model, full(x), after, kept, config)))(flat)
  mass = {side: np.zeros(params[side].shape[0]) for side in moving}
  floor = {side: np.zeros(params[side].shape[0]) for side in moving}
  for into, part in ((mass, in_hessian), (floor, removed)):
    for user, items, weight in zip(*part, strict=True):
      into["user"][user] += weight
      into["item"][items[0]] += weight
      for j in items[1:]:
        into["item"][j] += weight / len(items[1:])
  dim = params["user"].shape[1]
  ridge = np.concatenate(
    [np.repeat(np.maximum(mass[side], floor[side])[moving[side]], dim) for side in ("item", "user")]
  )
  hessian = np.asarray(jax.jit(jax.hessian(retained_loss))(flat), np.float64) + config.damping * np.diag(ridge)
  assert np.linalg.eigvalsh(hessian).min() > 0
  change = np.linalg.solve(hessian, np.asarray(rhs, np.float64))
  return full(flat + config.step * jnp.asarray(change, flat.dtype))


@pytest.mark.parametrize("model", ALL, ids=IDS)
def test_the_step_is_that_of_the_dense_hessian_of_the_retained_pairs(model):
  """Sign, the sums whose ratio is n_f / n_r, and the set that the Hessian is taken on are all in this equality."""
  data, forget, params = setup(model)
  config = L2UnRankConfig.preset(
    model.name, hops=0, curvature="hessian", damping=3.0 if model is not WMF else 2.0, num_negatives=2, step=0.7,
    negative_roles=2, degree_weight=0.7, train_negatives=3, **TIGHT,
  )  # fmt: skip
  wanted = dense_step(model, data, forget, params, config)
  result = unlearn(KEY, model, params, data, forget, config)
  assert result.info["damping_raised"] == 0 and result.info["residual_norm"] < 1e-4
  for side in ("user", "item"):
    moved = np.asarray(result.state.params[side] - params[side])
    assert np.abs(moved).max() > 1e-3
    np.testing.assert_allclose(moved, np.asarray(wanted[side] - params[side]), atol=2e-5, rtol=5e-3)


def test_a_wmf_step_of_users_alone_is_retraining_them_against_fixed_items():
  """Users of a stationary model have a quadratic loss, so one step must land on the ridge solution."""
  data, forget, params = setup(WMF)
  c0, l2 = WMF.config.unobserved_weight, WMF.config.l2
  items = np.asarray(params["item"], np.float64)

  def solve(pairs):
    out = np.zeros((data.num_users, items.shape[1]))
    for user in range(data.num_users):
      rows = items[pairs.item[pairs.user == user]]
      system = 2 * (1 - c0) * rows.T @ rows + 2 * c0 * items.T @ items + l2 * len(rows) * np.eye(items.shape[1])
      out[user] = np.linalg.solve(system, 2 * rows.sum(axis=0))
    return out

  stationary = {**params, "user": jnp.asarray(solve(data), jnp.float32)}
  config = L2UnRankConfig(move="users", degree_weight=0.0, score_weight=0.0, damping=0.0, **TIGHT)
  got = unlearn(KEY, WMF, stationary, data, forget, config).state.params
  wanted = solve(data.without(forget))
  touched = np.unique(forget.user)
  assert np.abs(wanted - np.asarray(stationary["user"]))[touched].max() > 0.05
  np.testing.assert_allclose(np.asarray(got["user"])[touched], wanted[touched], atol=1e-4)
  assert np.array_equal(got["item"], params["item"])


# What every request must keep


@pytest.mark.parametrize("model", ALL, ids=IDS)
def test_forgotten_pairs_sink_and_rows_outside_the_scope_are_bitwise_the_same(model):
  data, forget, params = setup(model)
  # Enough damping for the first order to decide: at random parameters a full step proves nothing about the sign.
  config = L2UnRankConfig.preset(model.name, hops=0, max_iterations=50, damping=1.0)
  result = unlearn(KEY, model, params, data, forget, config)
  near = influence_region(data, data.without(forget), forget, 0).scope
  for side, inside in (("user", near.user), ("item", near.item)):
    old, new = np.asarray(params[side]), np.asarray(result.state.params[side])
    assert not inside.all() and np.array_equal(old[~inside], new[~inside])
    assert np.all(np.any(old[inside] != new[inside], axis=1))
  if model is NEUMF:
    assert all(map(np.array_equal, jax.tree.leaves(params["tower"]), jax.tree.leaves(result.state.params["tower"])))
  context = model.context(data)  # of both, so that the parameters alone make the difference

  def margin(p):
    """Score of a forgotten pair over the mean of its user's items: what its rank depends on."""
    vectors = model.encode(p, context)
    scores = model.score(p, vectors.user[forget.user][:, None, :], vectors.item[None, :, :])
    return scores[np.arange(len(forget)), forget.item] - jnp.mean(scores, axis=1)

  assert float(jnp.mean(margin(result.state.params) - margin(params))) < -0.003
  assert len(result.state.interactions) == len(data) - len(forget)
  assert result.info["rows_touched"] == int(near.user.sum() + near.item.sum())
  assert result.info["code"] in (linalg.CONVERGED, linalg.ITERATION_LIMIT)


@pytest.mark.parametrize("model", [MF, WMF, GCN], ids=["bprmf", "wmf", "lightgcn"])
def test_a_wholly_forgotten_user_leaves_a_row_of_zeros_and_is_no_part_of_the_system(model):
  data, _, params = setup(model)
  forget = data.select(data.user == 3)
  result = unlearn(KEY, model, params, data, forget)
  assert not np.any(np.asarray(result.state.params["user"])[3]) and result.info["users_cleared"] == 1
  for scale in (-1.0, 4.0):  # all that the row held is gone: another row, another step of others, but zeros again
    other = {**params, "user": params["user"].at[3].multiply(scale)}
    assert not np.any(np.asarray(unlearn(KEY, model, other, data, forget).state.params["user"])[3])


@pytest.mark.parametrize("model", [MF, WMF, NEUMF], ids=["bprmf", "wmf", "neumf"])
def test_a_wholly_forgotten_item_is_placed_by_the_retained_pairs_alone(model):
  data, _, params = setup(model)
  forget = data.select(data.item == 4)
  # Unweighted: the semantic influence of a pair looks at the item's old row.
  config = L2UnRankConfig(move="items", degree_weight=0.0, score_weight=0.0, **TIGHT)
  first = unlearn(KEY, model, params, data, forget, config)
  other = {**params, "item": params["item"].at[4].multiply(-2.0)}
  second = unlearn(KEY, model, other, data, forget, config)
  assert first.info["items_placed_anew"] == 1
  np.testing.assert_allclose(first.state.params["item"][4], second.state.params["item"][4], atol=1e-5)
  users = np.unique(data.without(forget).user)
  score = model.score(first.state.params, params["user"][users], first.state.params["item"][4:5])
  zero = model.score(params, params["user"][users], jnp.zeros((1, params["item"].shape[1])))
  assert float(jnp.mean(score)) <= float(jnp.mean(zero)) + 1e-6  # a negative of everybody, or indifferent (WMF)


def test_users_weigh_by_their_degree_as_in_training():
  data, forget, params = setup()
  system = lambda power: build_system(  # noqa: E731
    KEY, build_static(MF, L2UnRankConfig(), propagates=False), MF.encode(params, None), data, data.without(forget),
    forget, L2UnRankConfig(user_weight_power=power),
  )[0]  # fmt: skip
  flat, weighed = system(0.0), system(0.5)
  for name in ("forget", "support"):
    a, b = getattr(flat, name), getattr(weighed, name)
    real = slice(0, int(a.count))
    degree = data.user_degrees()[np.asarray(a.user)[real]]
    np.testing.assert_allclose(np.asarray(b.weight)[real], np.asarray(a.weight)[real] / np.sqrt(degree), rtol=1e-5)


def test_a_thinned_hessian_keeps_its_total_weight(monkeypatch):
  data, forget, params = setup()
  monkeypatch.setattr("jaxunlearn.unlearn._l2unrank_system._FEW_PAIRS", 1)
  totals = []
  for pairs_per_row in (0, 1):
    config = L2UnRankConfig(
      pairs_per_row=pairs_per_row, negative_roles=0, user_weight_power=0.0, degree_weight=0.0, score_weight=0.0
    )
    static = build_static(MF, config, propagates=False)
    system, region = build_system(KEY, static, MF.encode(params, None), data, data.without(forget), forget, config)
    totals.append((int(system.support.count), float(system.support.weight.sum())))
  assert totals[0][0] == int(region.support.sum())
  assert totals[1][0] == int(np.sum(region.scope.user) + np.sum(region.scope.item)) < totals[0][0]
  assert totals[1][1] == pytest.approx(totals[0][1])


def test_a_second_request_of_another_size_does_not_retrace():
  data = random_pairs()
  unlearner = l2unrank(MF, TrainConfig(num_epochs=1, batch_size=64))
  state = unlearner.fit(jax.random.key(0), data)
  state = unlearner.unlearn(KEY, state, data.select(np.arange(0, 60, 6))).state
  traced = influence_step._cache_size()
  for step in (50, 7):
    state = unlearner.unlearn(KEY, state, state.interactions.select(np.arange(0, 90, step))).state
  state = unlearner.unlearn(KEY, state, Request(users=[5])).state
  assert influence_step._cache_size() == traced


def test_requests_by_id_the_empty_request_and_what_is_served():
  data = random_pairs()
  unlearner = l2unrank(MF, TrainConfig(num_epochs=1, batch_size=64))
  state = unlearner.fit(jax.random.key(0), data)
  assert unlearner.unlearn(KEY, state, Request()).state is state
  nothing = unlearn(KEY, MF, state.params, data, data.select(np.zeros(0, int))).state
  assert all(map(np.array_equal, jax.tree.leaves(nothing.params), jax.tree.leaves(state.params)))
  before = [np.array(leaf) for leaf in jax.tree.leaves(state.params)]
  result = unlearner.unlearn(KEY, state, Request(users=[3], items=[5]))
  gone = result.state.interactions
  assert not np.any(gone.user == 3) and not np.any(gone.item == 5)
  assert all(map(np.array_equal, before, jax.tree.leaves(state.params)))
  assert np.all(np.isfinite(unlearner.scorer(result.state).scores(jnp.arange(data.num_users))))
  assert result.info["seconds"] > 0


# Failure is loud


def test_negative_curvature_is_damped_and_then_refused(monkeypatch):
  data, forget, params = setup(scale=20.0)
  config = L2UnRankConfig(curvature="hessian", damping=1e-4, max_iterations=100)
  info = unlearn(KEY, MF, params, data, forget, config).info
  assert info["damping_raised"] > 0 and info["damping"] == pytest.approx(1e-4 * 10 ** info["damping_raised"], rel=1e-4)
  monkeypatch.setattr("jaxunlearn.unlearn.l2unrank._RETRIES", 0)
  with pytest.raises(ValueError, match="negative or zero curvature.*damping=0.0001"):
    unlearn(KEY, MF, params, data, forget, config)


def test_bad_input_is_refused():
  data, forget, params = setup()
  with pytest.raises(ValueError, match=r"finite values in params\['user'\], got 1 NaN"):
    unlearn(KEY, MF, {**params, "user": params["user"].at[3, 2].set(jnp.nan)}, data, forget)
  huge = {side: 1e25 * table for side, table in params.items()}
  with pytest.raises(ValueError, match="L2UnRank: NaN or infinity"):
    unlearn(KEY, MF, huge, data, forget)
  frozen = models.frozen(params["user"], params["item"])
  with pytest.raises(ValueError, match="defined for bprmf"):
    unlearn(KEY, frozen, params, data, forget)
  with pytest.raises(ValueError, match="not"):
    unlearn(KEY, MF, params, data.without(forget), forget)
  with pytest.raises(ValueError, match="forgets all"):
    unlearn(KEY, MF, params, data, data)
  for change in (
    {"hops": -1}, {"degree_weight": 1.5}, {"score_weight": -0.1}, {"high_impact_ratio": 0.0}, {"loss": "bce"},
    {"curvature": "exact"}, {"move": "all"}, {"step": 0.0}, {"row_cap": 0.0}, {"damping": -1.0}, {"pairs_per_row": -1},
  ):  # fmt: skip
    with pytest.raises(ValueError, match=next(iter(change))):
      L2UnRankConfig(**change)


def test_a_graph_whose_only_users_have_every_item_is_refused():
  """Their pairs weigh nothing, as no negative is left; without a graph no row of theirs is asked to move."""
  data = Interactions.from_pairs([0, 0, 0, 0, 1, 1], [0, 1, 2, 3, 0, 1], num_users=2, num_items=4)
  for model in ALL:
    params, leaves = model.init(jax.random.key(0), 2, 4), data.select(data.user == 1)
    if model is GCN:
      with pytest.raises(ValueError, match="every user who remains has every item.* use retrain"):
        unlearn(KEY, model, params, data, leaves)
      unlearn(KEY, model, params, data, leaves.select(leaves.item == 0))  # whoever remains can be compared with
    else:
      unlearn(KEY, model, params, data, leaves)


def test_the_preset_reads_the_training():
  config = L2UnRankConfig.preset("neumf", TrainConfig(user_weight_power=0.2, num_negatives=7), damping=0.1)
  assert (config.hops, config.user_weight_power, config.train_negatives, config.damping) == (0, 0.2, 7, 0.1)
  assert L2UnRankConfig.preset("lightgcn").hops == 1
  assert L2UnRankConfig.preset("neumf").damping > L2UnRankConfig.preset("bprmf").damping
  assert [L2UnRankConfig.preset(name).step for name in ("bprmf", "wmf", "lightgcn", "neumf")] == [1.5, 1.25, 1.6, 1.0]
