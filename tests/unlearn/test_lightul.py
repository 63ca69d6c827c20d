import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import kmeans, models
from jaxunlearn.data.forget import sample_forget
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.losses import weighted_mean
from jaxunlearn.requests import Request
from jaxunlearn.sampling import sample_negatives
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn import _whitening
from jaxunlearn.unlearn.lightul import LightULConfig, ServedState, _problem, unlearn
from jaxunlearn.unlearn.lightul import lightul as lightul_factory
from tests.small import random_pairs

MF = models.bprmf(models.BPRMFConfig(embedding_dim=8))
GCN = models.lightgcn(models.LightGCNConfig(embedding_dim=8, num_layers=2))
QUICK = {"num_epochs": 4, "batch_size": 32, "num_preserve": 64, "hidden": 16, "phantom_ratio": 0.2}


def setup(seed=0, count=9, model=MF):
  data = random_pairs()
  forget = data.select(np.sort(np.random.default_rng(seed).choice(len(data), count, replace=False)))
  return data, forget, model.init(jax.random.key(0), data.num_users, data.num_items)


def quick(objective="preserve", model="bprmf", **changes):
  return LightULConfig.preset(objective, model, **{**QUICK, "patience": 0, **changes})


@pytest.mark.parametrize("objective", ["preserve", "paper"])
@pytest.mark.parametrize("model", [MF, GCN], ids=["bprmf", "lightgcn"])
def test_rows_without_a_forgotten_pair_are_bitwise_those_of_the_retained_graph(objective, model):
  data, forget, params = setup(model=model)
  result = unlearn(jax.random.key(1), model, params, data, forget, quick(objective))
  base = model.encode(params, model.context(data.without(forget)))
  for side, degrees in (("user", forget.user_degrees()), ("item", forget.item_degrees())):
    got, kept = np.asarray(getattr(result.state.vectors, side)), np.asarray(getattr(base, side))
    assert np.array_equal(got[degrees == 0], kept[degrees == 0])
    assert np.all(np.any(got[degrees > 0] != kept[degrees > 0], axis=1))


def test_the_released_objective_moves_the_base_and_the_paper_one_does_not():
  data, forget, params = setup()
  moved = unlearn(jax.random.key(1), MF, params, data, forget, quick("released"), diagnostics=True).info["unwhitened"]
  kept = unlearn(jax.random.key(1), MF, params, data, forget, quick("paper"), diagnostics=True).info["unwhitened"]
  assert np.array_equal(kept.user, params["user"])
  assert not np.array_equal(moved.user, params["user"])


@pytest.mark.parametrize("model", [MF, GCN], ids=["bprmf", "lightgcn"])
def test_the_residual_network_starts_as_the_identity(model):
  data, forget, params = setup(model=model)
  config = quick()
  before = model.encode(params, model.context(data))
  base = model.encode(params, model.context(data.without(forget)))
  problem, _ = _problem(jax.random.key(0), before, base, data, data.without(forget), forget, config, 512)
  static = static_of(config)
  start = _whitening.init_variables(jax.random.key(0), problem, static)
  served, _ = _whitening.served(start, problem, static=static)
  assert np.array_equal(served.user, base.user) and np.array_equal(served.item, base.item)


def static_of(config, model=None):
  return _whitening.Static(
    objective=config.objective, phantoms=config.phantoms, squash=config.agg == "sigmoid", reduction=config.reduction,
    hidden=config.hidden, residual=config.residual, batch_size=config.batch_size, num_preserve=config.num_preserve,
    model=model or MF,
  )  # fmt: skip


def test_the_paper_objective_equals_a_naive_sum_over_pairs():
  data, forget, params = setup()
  config = quick("paper", phantoms=False, reduction="sum", decay=0.01, alpha=0.3)
  vectors = MF.encode(params, None)
  problem, _ = _problem(jax.random.key(0), vectors, vectors, data, data.without(forget), forget, config, 512)
  static = static_of(config)
  variables = _whitening.init_variables(jax.random.key(2), problem, static)
  weights = _whitening.Weights(*map(jnp.float32, (config.alpha, 0.0, config.decay, 0.0, 0.0)))
  rows = jnp.arange(12)
  loss = jax.jit(_whitening._loss, static_argnums=6)
  got = loss(variables, jax.random.key(5), rows, rows < len(forget), problem, weights, static)

  negative = np.asarray(
    sample_negatives(jax.random.split(jax.random.key(5), 4)[0], problem.known, problem.forget.user[rows], 1)
  )[:, 0]
  omega = jax.tree.map(np.asarray, variables["omega"])

  def whiten(x, side, affected):
    net = omega[side]
    y = np.maximum(x @ net["in"]["kernel"] + net["in"]["bias"], 0) @ net["out"]["kernel"] + net["out"]["bias"]
    return y if affected else x

  users, items = np.asarray(params["user"]), np.asarray(params["item"])
  touched = forget.item_degrees() > 0
  l1, l2 = 0.0, []
  for at in range(len(forget)):
    u, i, j = int(forget.user[at]), int(forget.item[at]), int(negative[at])
    eu = whiten(users[u], "user", True)
    after = eu @ whiten(items[i], "item", True)
    l1 += -np.log(1 / (1 + np.exp(-(users[u] @ items[i] - after))))
    l2.append((after - eu @ whiten(items[j], "item", touched[j])) ** 2)
  ridge = sum(float(np.sum(leaf**2)) for leaf in jax.tree.leaves(omega))
  assert got == pytest.approx(0.3 * l1 + 0.7 * np.mean(l2) + 0.01 * ridge, rel=1e-4)


def test_the_phantom_loss_reaches_only_the_phantoms_of_forgetting_users():
  data, forget, params = setup()
  config = quick("paper")
  vectors = MF.encode(params, None)
  problem, _ = _problem(jax.random.key(0), vectors, vectors, data, data.without(forget), forget, config, 512)
  static = static_of(config)
  variables = _whitening.init_variables(jax.random.key(2), problem, static)
  weights = _whitening.Weights(*map(jnp.float32, (0.0, 1.0, 0.0, 0.0, 0.0)))
  rows = jnp.arange(16)
  grad = jax.jit(jax.grad(_whitening._loss), static_argnums=6)
  grads = grad(variables, jax.random.key(0), rows, rows < len(forget), problem, weights, static)
  moved = np.flatnonzero(np.any(np.asarray(grads["phantom"]) != 0, axis=1))
  assert sorted(set(np.asarray(problem.phantom_of)[forget.user].tolist())) == moved.tolist()


def find_pairs(state, forget):
  """Searches every pair of equally long integer arrays of a state, and every CSR-like one, for forgotten pairs."""
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
  integers = [leaf for leaf in leaves if np.issubdtype(leaf.dtype, np.integer)]
  wanted = set(zip(forget.user.tolist(), forget.item.tolist(), strict=True))
  found = set()
  for at, a in enumerate(integers):
    for b in integers[at + 1 :]:  # users are stored before items
      if a.ndim == b.ndim == 1 and a.shape == b.shape:
        found |= wanted & set(zip(a.tolist(), b.tolist(), strict=True))
    if a.ndim == 2 and a.shape[1] == 2:
      found |= wanted & {tuple(row) for row in a.tolist()}
  return found


@pytest.mark.parametrize("objective", ["preserve", "paper", "released"])
def test_a_second_request_of_another_size_does_not_retrace_and_nothing_forgotten_is_left(objective):
  data, _, _ = setup()
  unlearner = lightul_factory(MF, TrainConfig(num_epochs=1, batch_size=64), quick(objective))
  state = unlearner.fit(jax.random.key(0), data)
  first = data.select(np.arange(0, 40, 4))
  assert len(find_pairs(state, first)) == len(first)  # the search finds what is there
  state = unlearner.unlearn(jax.random.key(1), state, first).state
  programs = (_whitening.run_epochs, _whitening.served, kmeans.kmeans)
  if objective == "released":  # there the first request trains the model's own tables, the second the served vectors
    state = unlearner.unlearn(jax.random.key(2), state, state.interactions.select(np.arange(7))).state
  second = state.interactions.select(np.arange(0, 60, 20))
  traced = [program._cache_size() for program in programs]
  state = unlearner.unlearn(jax.random.key(2), state, second).state
  assert [program._cache_size() for program in programs] == traced
  assert not find_pairs(state, first) and not find_pairs(state, second)
  assert isinstance(state, ServedState)
  floats = [leaf for leaf in jax.tree.leaves(state) if np.issubdtype(leaf.dtype, np.floating)]
  assert len(floats) == 2  # the served vectors and nothing else: no base table, no network, no phantom


def test_requests_by_id_and_the_empty_request():
  data, _, _ = setup()
  unlearner = lightul_factory(MF, TrainConfig(num_epochs=1, batch_size=64), quick())
  state = unlearner.fit(jax.random.key(0), data)
  assert unlearner.unlearn(jax.random.key(1), state, Request()).state is state
  result = unlearner.unlearn(jax.random.key(1), state, Request(users=[3], items=[5]))
  gone = result.state.interactions
  assert not np.any(gone.user == 3) and not np.any(gone.item == 5)
  assert result.info["num_forgotten"] == int(np.sum((data.user == 3) | (data.item == 5)))
  assert np.all(np.isfinite(unlearner.scorer(result.state).scores(jnp.arange(data.num_users))))


def test_frozen_vectors_and_a_wholly_forgotten_user():
  data, forget, params = setup()
  model = models.frozen(params["user"], params["item"])
  unlearner = lightul_factory(model, None, quick("paper"))
  state = unlearner.fit(jax.random.key(0), data)
  served = unlearner.unlearn(jax.random.key(0), state, data.select(data.user == 4)).state.vectors
  assert not np.array_equal(served.user[4], params["user"][4])


def test_bad_input_is_refused_before_any_work():
  data, forget, params = setup()
  broken = {**params, "user": params["user"].at[3, 2].set(jnp.nan)}
  with pytest.raises(ValueError, match=r"finite values in params\['user'\], got 1 NaN"):
    unlearn(jax.random.key(0), MF, broken, data, forget, quick())
  neumf = models.neumf()
  with pytest.raises(ValueError, match="neumf's is not"):
    unlearn(jax.random.key(0), neumf, neumf.init(jax.random.key(0), 40, 30), data, forget, quick())
  with pytest.raises(ValueError, match="not"):
    unlearn(jax.random.key(0), MF, params, data.without(forget), forget, quick())
  with pytest.raises(ValueError, match="forgets all"):
    lightul_factory(MF, None, quick()).unlearn(jax.random.key(0), ServedState(MF.encode(params, None), data, 512), data)
  for change in ({"objective": "papre"}, {"alpha": -1.0}, {"phantom_ratio": 2.0}, {"min_cluster_size": 0}):
    with pytest.raises(ValueError, match=next(iter(change))):
      LightULConfig(**change)


def test_lonely_phantoms_are_counted_and_warned_of():
  data, forget, params = setup()
  with pytest.warns(UserWarning, match="pseudonym"):
    info = unlearn(jax.random.key(0), MF, params, data, forget, quick("paper", phantom_ratio=1.0, num_epochs=1)).info
  assert 0 < info["alone_share"] <= 1
  merged = unlearn(
    jax.random.key(0), MF, params, data, forget, quick("paper", phantom_ratio=1.0, num_epochs=1, min_cluster_size=2)
  ).info
  assert merged["alone_share"] == 0 and merged["singleton_clusters"] == 0


@pytest.mark.parametrize("objective", ["paper", "released"])
def test_patience_stops_on_a_probe_and_serves_the_best_epoch(objective):
  data, forget, params = setup()

  def run(**changes):
    return unlearn(jax.random.key(0), MF, params, data, forget, quick(objective, **changes))

  stopped = run(patience=2, min_delta=1.0, num_epochs=50)  # nothing is better by one than the first
  assert stopped.info["epochs"] == len(stopped.info["probe_auc"]) == 3
  first = run(num_epochs=1)
  assert all(map(np.array_equal, stopped.state.vectors, first.state.vectors))
  assert not np.array_equal(stopped.state.vectors.user, run(num_epochs=3).state.vectors.user)


def test_the_released_objective_and_its_gradient_equal_a_naive_sum_over_pairs():
  data, forget, params = setup()
  forget = forget.union(data.select(data.user == forget.user[0]))  # who then has nothing retained to compare with
  config = quick("released", alpha=0.7, phantom_weight=1.3, decay=0.01)
  vectors = MF.encode(params, None)
  problem, _ = _problem(jax.random.key(0), vectors, vectors, data, data.without(forget), forget, config, 512)
  problem, static = problem.replace(params=params), static_of(config)
  variables = _whitening.init_variables(jax.random.key(2), problem, static)
  # Tables that have moved since the request came: the score before Ω is theirs, not that of `problem.before`.
  variables["params"] = jax.tree.map(lambda leaf: 3 * leaf + 0.2, params)
  weights = _whitening.Weights(*map(jnp.float32, (config.alpha, config.phantom_weight, config.decay, 0.0, 0.0)))
  rows = jnp.arange(32)
  keys = jax.random.split(jax.random.key(5), 4)
  users = problem.forget.user[rows]
  kept, has_kept = _whitening._retained_item(keys[1], problem.retained, users)
  random, phantom = (jax.random.randint(k, users.shape, 0, data.num_items, jnp.int32) for k in (keys[0], keys[2]))
  drawn = [np.asarray(x).tolist() for x in (users, problem.forget.item[rows], kept, random, phantom)]
  has_kept, touched = np.asarray(has_kept), forget.item_degrees() > 0

  def whiten(x, net, affected=True):
    hidden = jnp.maximum(x @ net["in"]["kernel"] + net["in"]["bias"], 0)
    return hidden @ net["out"]["kernel"] + net["out"]["bias"] if affected else x

  def naive(variables):
    omega, tables = variables["omega"], variables["params"]
    score = lambda a, b: jax.nn.sigmoid(jnp.sum(a * b))  # noqa: E731
    lowered, below, above, again = [], [], [], []
    for at in range(len(forget)):
      u, i, t, j, k = (x[at] for x in drawn)
      eu = whiten(tables["user"][u], omega["user"])
      ei, et, ej = (whiten(tables["item"][x], omega["item"], touched[x]) for x in (i, t, j))
      lowered.append(jnp.log1p(jnp.exp(score(eu, ei) - score(tables["user"][u], tables["item"][i]))))
      if has_kept[at]:
        below.append(jnp.log1p(jnp.exp(score(eu, ei) - score(eu, et))))
        above.append(jnp.log1p(jnp.exp(score(eu, ej) - score(eu, et))))
      row, own, other = tables["user"][u], tables["item"][i], tables["item"][k]
      margin = score(row, own) - score(row, other)
      ridge = 0.5 * (jnp.sum(row**2) + jnp.sum(own**2) + jnp.sum(other**2))
      again.append(jnp.log1p(jnp.exp(-margin)) + 0.01 * ridge)
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    return mean(lowered) + mean(below) + 0.7 * mean(above) + 1.3 * mean(again)

  loss = jax.jit(jax.value_and_grad(_whitening._loss), static_argnums=6)
  got, grads = loss(variables, jax.random.key(5), rows, rows < len(forget), problem, weights, static)
  expected, expected_grads = jax.jit(jax.value_and_grad(naive))(variables)
  assert got == pytest.approx(float(expected), rel=1e-5)
  for part in ("omega", "params"):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), grads[part], expected_grads[part])


def test_what_is_preserved_are_scores_of_retained_and_of_random_pairs():
  data, forget, params = setup()
  config, vectors = quick(), MF.encode(params, None)
  problem, _ = _problem(jax.random.key(0), vectors, vectors, data, data.without(forget), forget, config, 512)
  user, item = (np.asarray(params[side], np.float64) for side in ("user", "item"))
  got = _whitening._preserve(
    jax.random.key(3), problem, lambda rows: 3 * vectors.user[rows], lambda rows: vectors.item[rows], static_of(config)
  )
  size, keys = config.num_preserve, jax.random.split(jax.random.key(3), 3)
  bounds = (len(data) - len(forget), data.num_users, data.num_items)
  row, anyone, anything = (np.asarray(jax.random.randint(k, (size,), 0, n)) for k, n in zip(keys, bounds, strict=True))
  kept = data.without(forget)
  pairs = [*zip(kept.user[row], kept.item[row], strict=True), *zip(anyone, anything, strict=True)]
  changes = [2 * user[u] @ item[i] / float(problem.score_unit) for u, i in pairs]
  assert got == pytest.approx(np.mean(np.square(changes)), rel=1e-4)


def test_a_plain_network_starts_as_pytorchs_do():
  net = _whitening.Whitening(hidden=64, residual=False).init(jax.random.key(0), jnp.zeros((1, 400)))["params"]
  for layer, fan_in in (("in", 400), ("out", 64)):
    for values in net[layer].values():
      bound = fan_in**-0.5
      assert np.abs(values).max() <= bound and np.std(values) == pytest.approx(bound / 3**0.5, rel=0.2)


def test_preserving_holds_retained_scores_where_the_paper_objective_loses_them():
  data = random_pairs(num_users=120, num_items=80, num_pairs=2500)
  forget = sample_forget(np.random.default_rng(0), data, by="interaction", ratio=0.02)
  params = MF.init(jax.random.key(0), 120, 80)
  params = jax.tree.map(lambda x: 5 * x, params)
  retained = data.without(forget)

  def change(objective):
    config = dataclasses.replace(quick(objective, phantoms=False, num_epochs=30))
    vectors = unlearn(jax.random.key(0), MF, params, data, forget, config).state.vectors
    score = lambda e, p: np.sum(np.asarray(e.user)[p.user] * np.asarray(e.item)[p.item], axis=1)  # noqa: E731
    base = MF.encode(params, None)
    sunk = np.mean(score(vectors, forget) - score(base, forget))
    return sunk, np.sqrt(np.mean((score(vectors, retained) - score(base, retained)) ** 2))

  sunk, moved = change("preserve")
  _, lost = change("paper")
  assert sunk < -0.1
  assert moved < 0.5 * lost


def test_weighted_mean_of_nothing_is_zero():
  assert weighted_mean(jnp.asarray([jnp.nan]), jnp.zeros(1)) == 0


def test_state_keeps_interactions_of_the_retained_pairs_only():
  data, forget, params = setup()
  state = unlearn(jax.random.key(0), MF, params, data, forget, quick()).state
  assert isinstance(state.interactions, Interactions)
  assert len(state.interactions) == len(data) - len(forget)


@pytest.mark.parametrize("side", ["user", "item"])
def test_without_phantoms_the_scale_of_either_table_changes_nothing(side):
  data, forget, params = setup()
  served = []
  for scale in (1.0, 8.0):  # a power of two: not one rounding differs
    tables = {name: table * (scale if name == side else 1.0) for name, table in params.items()}
    vectors = unlearn(jax.random.key(1), MF, tables, data, forget, quick(phantoms=False)).state.vectors
    served.append(np.asarray(vectors.user @ vectors.item.T) / scale)
  np.testing.assert_allclose(*served, rtol=1e-5, atol=1e-6)
  assert not np.allclose(served[0], params["user"] @ params["item"].T, atol=1e-4)
