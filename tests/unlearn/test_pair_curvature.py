"""The written-out gradient and curvature of BPR against differentiation of its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import linalg, models
from jaxunlearn.unlearn import _influence, _pair_curvature
from jaxunlearn.unlearn.ifru import IFRUConfig, unlearn
from tests.small import random_pairs

DIM = 5


def example_set(negatives):
  """Pairs of 30 users and 20 items at a capacity above their number, and a weight for each that is 0 for some."""
  data, rng = random_pairs(num_users=30, num_items=20, num_pairs=200), np.random.default_rng(1)
  pad = 256 - len(data)
  user, positive = (np.pad(side, (0, pad)).astype(np.int32) for side in (data.user, data.item))
  negative = rng.integers(0, data.num_items, (256, negatives)).astype(np.int32) + data.num_users
  weight = np.where(np.arange(256) < len(data), rng.choice([0.0, 0.5, 1.0, 2.0], 256), 0.0).astype(np.float32)
  return data, (user, positive + data.num_users, negative), jnp.asarray(weight)


@pytest.mark.parametrize(("negatives", "chunk"), [(1, 32), (3, 32), (5, 512)])  # 512 does not divide 5 · 256
def test_gradient_and_products_are_those_of_the_differentiated_loss(monkeypatch, negatives, chunk):
  monkeypatch.setattr(_pair_curvature, "_CHUNK", chunk)  # several chunks, of which the last are padding
  data, (user, positive, negative), weight = example_set(negatives)
  size = data.num_users + data.num_items
  layout = _pair_curvature.lay_out(user, positive, negative, count=len(data), num_users=data.num_users, num_nodes=size)
  assert 1 < int(layout.count) < layout.user.shape[0]
  x, change = (jax.random.normal(jax.random.key(k), (size, DIM)) for k in (1, 2))

  def margins(x):
    return jnp.sum(x[user][:, None] * (x[positive][:, None] - x[negative]), axis=-1)

  def outer(margins):
    return jnp.sum(weight * jnp.mean(jax.nn.softplus(-margins), axis=1))

  def loss(x):
    return outer(margins(x))

  np.testing.assert_allclose(
    _pair_curvature.gradient(layout, x, weight), jax.jit(jax.grad(loss))(x), rtol=1e-4, atol=1e-5
  )
  slopes = _pair_curvature.slopes(layout, x, weight)
  hessian = jax.jit(functools.partial(linalg.hvp, loss))(x, change)
  linearised = jax.jit(functools.partial(linalg.gauss_newton_product, margins, outer))(x, change)
  for gauss_newton, expected in ((False, hessian), (True, linearised)):
    got = _pair_curvature.product(layout, slopes, x, change, gauss_newton=gauss_newton)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
  assert not np.allclose(hessian, linearised, rtol=1e-2)


@pytest.mark.parametrize("solver", ["cg", "ggn_cg"])
@pytest.mark.parametrize("name", ["bprmf", "lightgcn"])
def test_a_request_comes_out_the_same_written_out_and_differentiated(monkeypatch, name, solver):
  data = random_pairs(num_users=300, num_items=150, num_pairs=3000)
  forget = data.select(np.arange(0, len(data), 9))
  assert np.sum(forget.user_degrees() > 0) + np.sum(forget.item_degrees() > 0) > 256  # no small scope
  configs = {"bprmf": models.BPRMFConfig, "lightgcn": models.LightGCNConfig}
  model = getattr(models, name)(configs[name](embedding_dim=DIM, l2=0.05))
  params = model.init(jax.random.key(3), data.num_users, data.num_items)
  layouts, results = [], []
  lay_out = _pair_curvature.lay_out
  monkeypatch.setattr(_pair_curvature, "lay_out", lambda *args, **kw: layouts.append(1) or lay_out(*args, **kw))
  for written in (True, False):
    monkeypatch.setattr(_influence, "written_out", lambda model, written=written: written)
    config = IFRUConfig.preset(name, solver=solver, num_negatives=2, tolerance=1e-4)
    results.append(unlearn(jax.random.key(0), model, params, data, forget, config))
  assert layouts == [1]
  for side in ("user", "item"):
    step = np.asarray(results[1].state.params[side] - params[side])
    got = np.asarray(results[0].state.params[side] - params[side])
    assert np.linalg.norm(got - step) < 1e-3 * np.linalg.norm(step)


def test_where_sums_are_written_out(monkeypatch):
  assert _influence.written_out(models.bprmf()) and _influence.written_out(models.lightgcn())
  for model in (models.wmf(), models.neumf(), models.bprmf(models.BPRMFConfig(loss="double_sigmoid"))):
    assert not _influence.written_out(model)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert not _influence.written_out(models.bprmf())
