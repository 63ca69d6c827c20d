import dataclasses

import jax
import numpy as np
import pytest

from jaxunlearn import checkpoint, models
from jaxunlearn.requests import Request
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn.retrain import retrain
from tests.small import random_pairs

CONFIG = TrainConfig(num_epochs=2, batch_size=64, learning_rate=0.02)


def equal(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("name", list(models.CONFIGS))
def test_unlearning_is_bitwise_training_without_the_request(name):
  data, unlearner = random_pairs(), retrain(models.build(name), CONFIG)
  key = jax.random.key(4)
  state = unlearner.fit(key, data)
  forget = data.select(np.arange(0, len(data), 11))
  result = unlearner.unlearn(key, state, forget)
  assert equal(result.state, unlearner.fit(key, data.without(forget)))
  assert not equal(result.state.params, state.params)
  # Sequential equals joint.
  half = forget.select(np.arange(len(forget)) % 2 == 0)
  one = unlearner.unlearn(key, unlearner.unlearn(key, state, half).state, forget.without(half))
  assert equal(one.state, result.state)


def test_what_the_forgotten_pairs_were_does_not_matter():
  data, unlearner, key = random_pairs(), retrain(models.bprmf(), CONFIG), jax.random.key(0)
  forget = data.select(np.arange(5))
  other = data.without(forget).union(data.without(data.without(forget)).select(np.arange(2)))
  first = unlearner.unlearn(key, unlearner.fit(key, data), forget)
  second = unlearner.unlearn(key, unlearner.fit(key, other), forget.select(np.arange(2)))
  assert equal(first.state, second.state)


def test_the_empty_request_is_the_identity():
  data, unlearner = random_pairs(), retrain(models.bprmf(), CONFIG)
  state = unlearner.fit(jax.random.key(0), data)
  assert unlearner.unlearn(jax.random.key(9), state, Request()).state is state
  assert unlearner.guarantee == "exact"


def test_a_forgotten_users_row_is_its_initialisation():
  data, model, key = random_pairs(), models.bprmf(), jax.random.key(0)
  unlearner = retrain(model, CONFIG)
  result = unlearner.unlearn(key, unlearner.fit(key, data), Request(users=[3]))
  fresh = model.init(jax.random.fold_in(key, 0), data.num_users, data.num_items)
  # Dense Adam leaves a row that never had a gradient where it was.
  assert np.array_equal(result.state.params["user"][3], fresh["user"][3])


def test_an_interrupted_request_resumes_and_another_one_does_not_take_its_place(tmp_path, monkeypatch):
  data, key = random_pairs(), jax.random.key(0)
  config = dataclasses.replace(CONFIG, num_epochs=5, checkpoint_every=1)
  plain = retrain(models.bprmf(), config)
  state, forget = plain.fit(key, data), data.select(np.arange(0, len(data), 11))
  kept = retrain(models.bprmf(), config, checkpoint_dir=tmp_path)
  save = checkpoint.RunDirectory.save

  def interrupted(self, step, *args, **options):
    save(self, step, *args, **options)
    if step == 3:
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.RunDirectory, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
      kept.unlearn(key, state, forget)
  assert checkpoint.steps(tmp_path) == [2, 3]
  assert equal(kept.unlearn(key, state, forget).state, plain.unlearn(key, state, forget).state)
  with pytest.raises(ValueError, match="another run"):
    kept.unlearn(key, state, forget.select(np.arange(3)))
