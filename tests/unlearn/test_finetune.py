import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import epoch, models
from jaxunlearn.requests import Request
from jaxunlearn.train import TrainConfig, fit
from jaxunlearn.unlearn.finetune import FinetuneConfig, finetune, unlearn
from tests.small import checkerboard, random_pairs

TRAIN = TrainConfig(num_epochs=3, batch_size=64, learning_rate=0.02, average=0.0)


def equal(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("name", list(models.CONFIGS))
def test_it_is_training_on_the_retained_pairs_from_the_given_start_for_the_stated_budget(name):
  data, model, key = random_pairs(), models.build(name), jax.random.key(0)
  unlearner = finetune(model, TRAIN, FinetuneConfig(num_epochs=2, learning_rate=0.01))
  state = unlearner.fit(key, data)
  forget = data.select(np.arange(0, len(data), 11))
  result = unlearner.unlearn(jax.random.key(1), state, forget)
  budget = TrainConfig(num_epochs=2, batch_size=64, learning_rate=0.01, average=0.0)
  by_hand = fit(jax.random.key(1), model, data.without(forget), budget, params=state.params)
  assert equal(result.state.params, by_hand.params) and not equal(result.state.params, state.params)
  assert result.info["epochs"] == 2 and result.info["loss"] == by_hand.history[-1]["loss"]
  assert len(result.state.interactions) == len(data) - len(forget)
  assert not result.state.interactions.contains(forget).any()
  kept = unlearner.fit(key, data)  # the start is not donated away
  assert equal(kept.params, state.params)


def test_the_budget_defaults_to_the_rate_of_the_training():
  data, model = random_pairs(), models.bprmf()
  params = model.init(jax.random.key(0), data.num_users, data.num_items)
  forget = data.select(np.arange(5))
  arguments = (jax.random.key(1), model, params, data, forget)
  given = unlearn(*arguments, FinetuneConfig(num_epochs=1, learning_rate=0.02), train_config=TRAIN).state.params
  default = unlearn(*arguments, FinetuneConfig(num_epochs=1), train_config=TRAIN).state.params
  other = unlearn(*arguments, FinetuneConfig(num_epochs=1, learning_rate=0.1), train_config=TRAIN).state.params
  assert equal(given, default) and not equal(given, other)


def test_a_user_without_a_pair_left_keeps_their_row():
  data, model = random_pairs(), models.bprmf()
  params = model.init(jax.random.key(0), data.num_users, data.num_items)
  forget = data.select(data.user == 4)
  moved = unlearn(jax.random.key(1), model, params, data, forget, train_config=TRAIN).state.params
  assert np.array_equal(moved["user"][4], params["user"][4])
  assert not np.array_equal(moved["user"][5], params["user"][5])


def test_the_retained_pairs_are_ranked_no_worse_and_the_forgotten_fade():
  data, model = checkerboard(), models.bprmf(models.BPRMFConfig(embedding_dim=8))
  unlearner = finetune(
    model, TrainConfig(num_epochs=150, batch_size=256, learning_rate=0.01), FinetuneConfig(num_epochs=60)
  )
  state = unlearner.fit(jax.random.key(0), data)
  forget = data.select(data.user == data.item + 2)
  result = unlearner.unlearn(jax.random.key(1), state, forget)

  def margin(state):
    """Mean score of the forgotten pairs below the mean of the retained ones."""
    scores = np.asarray(unlearner.scorer(state).scores(jnp.arange(40)))
    retained = data.without(forget)
    return scores[retained.user, retained.item].mean() - scores[forget.user, forget.item].mean()

  assert margin(result.state) > margin(state) + 0.01


def test_a_second_request_does_not_trace_again_and_the_empty_one_is_the_identity():
  data = random_pairs()
  unlearner = finetune(models.bprmf(), TRAIN, FinetuneConfig(num_epochs=1))
  state = unlearner.fit(jax.random.key(0), data)
  assert unlearner.unlearn(jax.random.key(1), state, Request()).state is state
  first = data.select(np.arange(0, 40, 4))
  state = unlearner.unlearn(jax.random.key(1), state, first).state
  traced = epoch.train_epoch._cache_size()
  state = unlearner.unlearn(jax.random.key(2), state, state.interactions.select(np.arange(3))).state
  assert epoch.train_epoch._cache_size() == traced
  assert unlearner.guarantee == "approximate" and unlearner.name == "finetune"


def test_bad_input_is_refused():
  data, model = random_pairs(), models.bprmf()
  params = model.init(jax.random.key(0), data.num_users, data.num_items)
  forget = data.select(np.arange(5))
  broken = {**params, "user": params["user"].at[3, 2].set(jnp.nan)}
  with pytest.raises(ValueError, match=r"finite values in params\['user'\], got 1 NaN"):
    unlearn(jax.random.key(0), model, broken, data, forget)
  with pytest.raises(ValueError, match="among the interactions"):
    unlearn(jax.random.key(0), model, params, data.without(forget), forget)
  with pytest.raises(ValueError, match="diverged"):
    unlearn(
      jax.random.key(0), model, params, data, forget, FinetuneConfig(num_epochs=30, learning_rate=1e38),
      train_config=TrainConfig(optimizer="sgd", batch_size=64),
    )  # fmt: skip
  for change in ({"num_epochs": 0}, {"learning_rate": -1.0}):
    with pytest.raises(ValueError, match=next(iter(change))):
      FinetuneConfig(**change)
