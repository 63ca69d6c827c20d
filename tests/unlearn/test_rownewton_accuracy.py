import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn import models
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.unlearn.rownewton import unlearn
from tests.unlearn.rownewton_small import (
  DIM,
  EXACT,
  MF,
  member_of,
  setup,
)

KEY = jax.random.key(0)


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
