"""What a user may get wrong without noticing: each is refused, with the argument, the value and the remedy."""

import dataclasses
import importlib
import pkgutil

import jax
import numpy as np
import pytest

import jaxunlearn
from jaxunlearn import (
  calibration,
  finetune,
  gradient_ascent,
  ifru,
  l2unrank,
  laser,
  lightul,
  models,
  retrain,
  rownewton,
  sisa,
)
from jaxunlearn.data.scenarios import sensitive_category
from jaxunlearn.data.synthetic import SyntheticConfig, generate
from jaxunlearn.data.vocabulary import Vocabulary
from jaxunlearn.exactness import verify_exact
from jaxunlearn.requests import Request
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn.ifru import IFRUConfig
from jaxunlearn.unlearn.l2unrank import L2UnRankConfig
from jaxunlearn.unlearn.lightul import LightULConfig, ServedState
from jaxunlearn.unlearn.retrain import ModelState
from jaxunlearn.unlearn.rownewton import RowNewtonConfig
from tests.small import random_pairs

CONFIGS = {
  value
  for module in pkgutil.walk_packages(jaxunlearn.__path__, "jaxunlearn.")
  for name, value in vars(importlib.import_module(module.name)).items()
  if name.endswith("Config") and dataclasses.is_dataclass(value)
}
COUNTS = [
  (config, field) for config in sorted(CONFIGS, key=lambda one: one.__name__) for field in dataclasses.fields(config)
  if field.type == "int"
]  # fmt: skip

MODEL = models.bprmf(models.BPRMFConfig(embedding_dim=4))
TRAINING = TrainConfig(num_epochs=1, batch_size=64)
POST_HOC = {
  "ifru": ifru, "l2unrank": l2unrank, "rownewton": rownewton, "finetune": finetune, "gradient_ascent": gradient_ascent,
  "lightul": lightul,
}  # fmt: skip


def pure(name):
  import importlib

  return importlib.import_module(f"jaxunlearn.unlearn.{name}").unlearn


@pytest.mark.parametrize("name", list(POST_HOC))
@pytest.mark.parametrize("change", [-3, 4])
def test_parameters_of_other_interactions_are_refused(name, change):
  """IFRU cut the joined tables at the wrong row and gave users' rows to items."""
  data = random_pairs()
  params = MODEL.init(jax.random.key(0), data.num_users + change, data.num_items)
  with pytest.raises(ValueError, match=rf"params\['user'\] with {data.num_users} rows.*{data.num_users + change}"):
    pure(name)(jax.random.key(0), MODEL, params, data, data.select(np.arange(3)))
  params = MODEL.init(jax.random.key(0), data.num_users, data.num_items)
  with pytest.raises(ValueError, match=r"params\['item'\].*got none"):
    pure(name)(jax.random.key(0), MODEL, {"user": params["user"]}, data, data.select(np.arange(3)))


def test_vectors_from_elsewhere_are_not_retrained():
  """They know what is to be forgotten, and initialising gives them back: "exact" would be said of nothing done."""
  data = random_pairs()
  frozen = models.frozen(np.ones((data.num_users, 2)), np.ones((data.num_items, 2)))
  for factory in (retrain, sisa, laser):
    with pytest.raises(ValueError, match="trained elsewhere, on all pairs"):
      factory(frozen, TRAINING)
  for name in ("ifru", "l2unrank", "finetune", "gradient_ascent"):
    for model in (frozen, models.popularity()):
      with pytest.raises(ValueError, match=f"model that is trained, got '{model.name}'"):
        POST_HOC[name](model, TRAINING)
  state = lightul(frozen).fit(jax.random.key(0), data)
  assert isinstance(lightul(frozen).unlearn(jax.random.key(0), state, data.select(np.arange(5))).state, ServedState)
  retrained = retrain(models.popularity(), TRAINING)  # counts pairs, so it does forget
  state = retrained.unlearn(jax.random.key(0), retrained.fit(jax.random.key(0), data), data.select(np.arange(5))).state
  assert len(state.interactions) == len(data) - 5 and verify_exact(jax.random.key(0), retrained, state).exact


def test_lightul_is_refused_where_it_is_not_defined_before_anything_is_trained():
  with pytest.raises(ValueError, match="inner products; neumf's is not"):
    lightul(models.neumf())


def test_states_of_other_methods_are_refused():
  data = random_pairs()
  forget = data.select(np.arange(5))
  method = lightul(MODEL, TRAINING, LightULConfig(num_epochs=1, phantoms=False))
  trained = method.fit(jax.random.key(0), data)
  served = method.unlearn(jax.random.key(0), trained, forget).state
  with pytest.raises(ValueError, match="Expected a ModelState.*got ServedState"):
    finetune(MODEL, TRAINING).unlearn(jax.random.key(0), served, served.interactions.select(np.arange(2)))
  shards = sisa(MODEL, TRAINING)
  with pytest.raises(ValueError, match="ModelState or a ServedState, got ShardedState"):
    method.unlearn(jax.random.key(0), shards.fit(jax.random.key(0), data), forget)


def test_a_request_is_the_same_however_often_it_is_resolved():
  data = random_pairs()
  users, items = data.user[:5].tolist(), data.item[:5].tolist()
  request = Request(pairs=zip(users, items, strict=True))
  assert len(request.resolve(data)) == len(request.resolve(data)) == 5
  everyone = Request(users=iter(users), missing="ignore")
  assert len(everyone.resolve(data)) == len(everyone.resolve(data)) > 0
  listed = Request(pairs=np.stack([users, items], axis=1))
  assert len(listed.resolve(data)) == 5


@pytest.mark.parametrize(
  ("given", "words"),
  [
    ({"users": "ann"}, "users as a list of ids, got 'ann'"),
    ({"users": 5}, "users as a list of ids, got 5"),
    ({"pairs": [("u",)]}, "pairs as .user id, item id."),
    ({"pairs": [3]}, "pairs as .user id, item id."),
    ({"pairs": ["ab"]}, "pairs as .user id, item id."),
  ],
)
def test_what_is_no_list_of_ids_is_refused(given, words):
  with pytest.raises(ValueError, match=words):
    Request(**given)


def test_a_vocabulary_of_other_data_is_refused():
  """Positions shift by one where an id came before the others: the request would delete somebody else's pairs."""
  data = random_pairs()
  grown = Vocabulary(np.arange(data.num_users + 1) + 100)
  with pytest.raises(ValueError, match=f"user_vocabulary of the data's {data.num_users} users, got one of"):
    Request(users=[105], user_vocabulary=grown).resolve(data)
  own = Vocabulary(np.arange(data.num_users) + 100)
  resolved = Request(users=[105], user_vocabulary=own).resolve(data)
  assert set(resolved.user.tolist()) == {5}
  with pytest.raises(ValueError, match="as a list, got 'ann'"):
    Vocabulary.from_ids(["ann", "bob"]).encode("ann")


def test_what_is_no_forget_set_is_refused():
  data = random_pairs()
  params = MODEL.init(jax.random.key(0), data.num_users, data.num_items)
  with pytest.raises(ValueError, match="got Request; resolve it first"):
    pure("finetune")(jax.random.key(0), MODEL, params, data, Request(users=[3]))
  method = retrain(MODEL, TRAINING)
  state = ModelState(params, data)
  for wrong in (None, [(3, 4)], {"users": [3]}):
    with pytest.raises(ValueError, match=f"got {type(wrong).__name__}; build a Request"):
      method.unlearn(jax.random.key(0), state, wrong)


def test_a_mask_is_no_list_of_items():
  dataset = generate(SyntheticConfig(num_users=40, num_items=30, num_pairs=600)).dataset
  mask = np.zeros(30, bool)
  mask[[4, 9, 11]] = True
  scenario = sensitive_category(np.random.default_rng(0), dataset, np.flatnonzero(mask), share=0.2)
  assert scenario.items.tolist() == [4, 9, 11]
  for wrong in (mask, np.array([1.7]), ["SKU_001"]):
    with pytest.raises(ValueError, match="items as integer positions"):
      sensitive_category(np.random.default_rng(0), dataset, wrong, share=0.2)


@pytest.mark.parametrize(
  ("preset", "name"),
  [(RowNewtonConfig.preset, "NeuMF"), (IFRUConfig.preset, "LightGCN"), (L2UnRankConfig.preset, "NeuMF"),
   (lambda name: LightULConfig.preset("released", name), "LightGCN")],
)  # fmt: skip
def test_another_spelling_of_a_model_is_not_another_model(preset, name):
  with pytest.raises(ValueError, match=f"model='{name}' spelt as '{name.lower()}'"):
    preset(name)
  assert preset("mine") is not None  # a model of one's own has the defaults


def test_calibrate_wants_the_pairs_of_the_state():
  data = random_pairs()
  rest, held_out = data.select(np.arange(0, len(data), 2)), data.select(np.arange(1, len(data), 2))
  method = finetune(MODEL, TRAINING)
  state = method.fit(jax.random.key(0), rest)
  with pytest.raises(ValueError, match="interactions of the state"):
    calibration.calibrate(jax.random.key(0), [method], state, rest.select(np.arange(20)), held_out, ratio=0.1)


@pytest.mark.parametrize("change", [{"num_epochs": 2.5}, {"batch_size": 1.5}, {"num_negatives": True}])
def test_counts_are_whole_numbers(change):
  with pytest.raises(ValueError, match=f"{next(iter(change))}=.*whole number"):
    TrainConfig(**change)


def test_another_key_than_the_fits_is_named_as_a_reason():
  data = random_pairs()
  method = retrain(MODEL, TRAINING)
  report = verify_exact(jax.random.key(1), method, method.fit(jax.random.key(0), data))
  assert not report.exact and "The key has to be that of the fit" in str(report)
  assert verify_exact(jax.random.key(0), method, method.fit(jax.random.key(0), data)).advice == ""


@pytest.mark.parametrize(
  ("config", "field"), COUNTS, ids=lambda part: getattr(part, "__name__", getattr(part, "name", ""))
)
def test_a_count_is_a_whole_number(config, field):
  """A float, a number of epochs from a share most likely, failed deep in JAX, if at all."""
  config(**{field.name: np.int64(field.default)})
  for value in (field.default + 0.5, float(field.default), True):
    with pytest.raises(ValueError, match=f"{field.name}={value}.* to be a whole number"):
      config(**{field.name: value})
