import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import models
from jaxunlearn.requests import Request
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn import _rownewton, rownewton
from jaxunlearn.unlearn import _rownewton_terms as terms
from jaxunlearn.unlearn._rownewton_graph import coupled_step, point_and_columns
from jaxunlearn.unlearn.rownewton import RowNewtonConfig, unlearn
from tests.small import random_pairs
from tests.unlearn.rownewton_small import (
  EXACT,
  GCN,
  MF,
  MODELS,
  setup,
)

KEY = jax.random.key(0)
PROGRAMS = (
  _rownewton.sweep, _rownewton.store, coupled_step, point_and_columns, terms.removed, rownewton._encode,
)  # fmt: skip


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


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_request_is_the_identity_and_another_size_does_not_trace_again(name):
  model = MODELS[name]
  data, forget, params = setup(model, count=3)
  same = unlearn(KEY, model, params, data, data.select(np.zeros(len(data), bool)))
  assert same.state.params is params and same.state.interactions is data
  first = unlearn(KEY, model, params, data, forget).state
  traced = [program._cache_size() for program in PROGRAMS]
  assert sum(traced) > 0
  # LightGCN keeps all blocks of a request, so its capacity follows the size: up to 8 pairs it is the same.
  size = 8 if name == "lightgcn" else 11
  more = first.interactions.select(np.linspace(0, len(first.interactions) - 1, size).astype(int))
  second = unlearn(jax.random.key(9), model, first.params, first.interactions, more)
  assert second.info["num_forgotten"] == size > 2 * len(forget)
  assert [program._cache_size() for program in PROGRAMS] == traced


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
    "leading_axes",
    "coupling_steps",
    "tolerance",
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


@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_wmf_forgets_an_item_where_there_are_fewer_users_than_dimensions(l2):
  """Nothing but unobserved entries holds such an item's row, and their block is singular: 0, its minimum, is kept."""
  data = random_pairs(num_users=14, num_items=12, num_pairs=70)
  model = models.wmf(models.WMFConfig(embedding_dim=24, l2=l2))
  params = model.init(jax.random.key(0), data.num_users, data.num_items)
  forget = data.select(data.item == 3)
  new = unlearn(jax.random.key(1), model, params, data, forget, RowNewtonConfig(damping=1.0)).state.params
  assert not new["item"][3].any() and np.isfinite(new["user"]).all()
