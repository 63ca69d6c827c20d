"""Methods that differentiate training's loss take the loss that training had."""

import importlib

import chex
import jax
import numpy as np
import pytest

from jaxunlearn import models
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn.gradient_ascent import GradientAscentConfig
from jaxunlearn.unlearn.ifru import IFRUConfig
from tests.small import random_pairs

MODELS = {
  "bprmf": models.bprmf(models.BPRMFConfig(embedding_dim=4, init_scale=0.5)),
  "neumf": models.neumf(models.NeuMFConfig(embedding_dim=4, hidden=(8, 4), init_scale=0.5)),
}


@pytest.mark.parametrize(("name", "num_negatives"), [("neumf", 3), ("bprmf", 1)])
@pytest.mark.parametrize("method", ["ifru", "gradient_ascent"])
def test_neumfs_loss_has_as_many_negatives_as_training(method, name, num_negatives):
  """A positive is weighed against that many; BPR takes a mean over them, and one is drawn."""
  module, model = importlib.import_module(f"jaxunlearn.unlearn.{method}"), MODELS[name]
  training, data = TrainConfig(num_epochs=1, batch_size=64, num_negatives=3), random_pairs()
  forget = data.select(np.arange(0, len(data), 11))
  unlearner = getattr(module, method)(model, training)
  state = unlearner.fit(jax.random.key(0), data)
  got = unlearner.unlearn(jax.random.key(1), state, forget).state.params
  preset = {"ifru": IFRUConfig.preset(name, num_negatives=num_negatives)}
  config = preset.get(method, GradientAscentConfig(num_negatives=num_negatives))
  wanted = module.unlearn(jax.random.key(1), model, state.params, data, forget, config).state.params
  chex.assert_trees_all_equal(got, wanted)
