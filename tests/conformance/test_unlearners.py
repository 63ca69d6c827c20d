"""One table of unlearners; a new method adds a row and gets every test."""

import inspect

import jax
import numpy as np
import pytest

from experiments import _stream
from jaxunlearn import base, checkpoint, models
from jaxunlearn.aggregate import AggregateConfig
from jaxunlearn.requests import Request
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn.finetune import FinetuneConfig, finetune
from jaxunlearn.unlearn.gradient_ascent import gradient_ascent
from jaxunlearn.unlearn.grapheraser import GraphEraserConfig, grapheraser
from jaxunlearn.unlearn.ifru import ifru
from jaxunlearn.unlearn.l2unrank import l2unrank
from jaxunlearn.unlearn.laser import LASERConfig, laser
from jaxunlearn.unlearn.lightul import LightULConfig, lightul
from jaxunlearn.unlearn.receraser import RecEraserConfig, receraser
from jaxunlearn.unlearn.retrain import retrain
from jaxunlearn.unlearn.rownewton import rownewton
from jaxunlearn.unlearn.sisa import SISAConfig, sisa
from tests.small import random_pairs

TRAIN = TrainConfig(num_epochs=2, batch_size=64, learning_rate=0.02)
QUICK = LightULConfig(num_epochs=3, batch_size=32, num_preserve=64, hidden=16, phantom_ratio=0.2)
MF = models.bprmf(models.BPRMFConfig(embedding_dim=8))
GCN = models.lightgcn(models.LightGCNConfig(embedding_dim=8, num_layers=2))
WMF = models.wmf(models.WMFConfig(embedding_dim=8))
NEUMF = models.neumf(models.NeuMFConfig(embedding_dim=4, hidden=(8, 4)))
AGGREGATE = AggregateConfig(attention_dim=4, train=TRAIN)
ROWS = {
  "retrain_bprmf": retrain(MF, TRAIN),
  "retrain_lightgcn": retrain(GCN, TRAIN),
  "retrain_wmf": retrain(models.wmf(), TRAIN),
  "retrain_neumf": retrain(models.neumf(), TRAIN),
  "lightul_bprmf": lightul(MF, TRAIN, QUICK),
  "lightul_lightgcn": lightul(GCN, TRAIN, QUICK),
  "lightul_wmf": lightul(models.wmf(), TRAIN, QUICK),
  "finetune_bprmf": finetune(MF, TRAIN, FinetuneConfig(num_epochs=2)),
  "gradient_ascent_bprmf": gradient_ascent(MF, TRAIN),
  "gradient_ascent_neumf": gradient_ascent(NEUMF, TRAIN),
  "ifru_bprmf": ifru(MF, TRAIN),
  "ifru_lightgcn": ifru(GCN, TRAIN),
  "ifru_wmf": ifru(WMF, TRAIN),
  "ifru_neumf": ifru(NEUMF, TRAIN),
  "l2unrank_bprmf": l2unrank(MF, TRAIN),
  "l2unrank_wmf": l2unrank(WMF, TRAIN),
  "l2unrank_lightgcn": l2unrank(GCN, TRAIN),
  "l2unrank_neumf": l2unrank(NEUMF, TRAIN),
  "rownewton_bprmf": rownewton(MF, TRAIN),
  "rownewton_wmf": rownewton(WMF, TRAIN),
  "rownewton_lightgcn": rownewton(GCN, TRAIN),
  "rownewton_neumf": rownewton(NEUMF, TRAIN),
  "sisa_wmf": sisa(WMF, TRAIN, SISAConfig(num_shards=3, num_slices=2)),
  "sisa_neumf": sisa(NEUMF, TRAIN, SISAConfig(num_shards=3)),
  "grapheraser_bprmf": grapheraser(
    MF, TRAIN, GraphEraserConfig(num_shards=3, partition="blpa", aggregate=AggregateConfig(kind="static", train=TRAIN))
  ),
  "receraser_lightgcn": receraser(GCN, TRAIN, RecEraserConfig(num_shards=3, partition="random", aggregate=AGGREGATE)),
  "laser_bprmf": laser(MF, TRAIN, LASERConfig(num_groups=3)),
}
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def states():
  cache = {}

  def get(name):
    if name not in cache:
      cache[name] = ROWS[name].fit(KEY, random_pairs())
    return cache[name]

  return get


def leaves_equal(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("name", ROWS)
def test_the_tuple_is_an_unlearner_with_the_documented_arguments(name):
  unlearner = ROWS[name]
  assert isinstance(unlearner, base.Unlearner)
  assert list(inspect.signature(unlearner.fit).parameters) == ["key", "interactions"]
  assert list(inspect.signature(unlearner.unlearn).parameters) == ["key", "state", "request"]
  assert unlearner.guarantee in ("exact", "approximate")


@pytest.mark.parametrize("name", ROWS)
def test_a_request_returns_a_result_and_leaves_the_old_state(name, states):
  state = states(name)
  before = [np.array(leaf) for leaf in jax.tree.leaves(state)]
  result = ROWS[name].unlearn(
    KEY,
    state,
    Request(
      pairs=[(int(u), int(i)) for u, i in zip(state.interactions.user[:3], state.interactions.item[:3], strict=True)]
    ),
  )
  assert isinstance(result, base.UnlearnResult)
  assert len(result.state.interactions) == len(state.interactions) - 3
  assert result.info["num_forgotten"] == 3 and result.info["seconds"] > 0
  assert all(np.array_equal(a, b) for a, b in zip(before, jax.tree.leaves(state), strict=True))


@pytest.mark.parametrize("name", ROWS)
def test_the_same_key_gives_the_same_result(name, states):
  request = Request(users=[2])
  first, second = (ROWS[name].unlearn(KEY, states(name), request).state for _ in range(2))
  assert leaves_equal(first, second)


@pytest.mark.parametrize("name", ROWS)
def test_a_second_request_and_serving_it_compile_nothing(name, states):
  """Of one pair, as the first: neither jitted programs nor operations outside of them, which are kept for good."""
  data = states(name).interactions

  def serve(row):
    request = Request(pairs=[(int(data.user[row]), int(data.item[row]))])
    ROWS[name].scorer(ROWS[name].unlearn(KEY, states(name), request).state).scores(np.arange(40))

  _stream.count_compilations()
  serve(0)
  with _stream.counting_compilations() as compiled:
    serve(1)
  assert compiled == [0]


@pytest.mark.parametrize("name", ROWS)
def test_the_empty_request_is_the_identity(name, states):
  assert leaves_equal(ROWS[name].unlearn(KEY, states(name), Request()).state, states(name))


@pytest.mark.parametrize("name", ROWS)
def test_the_scorer_is_the_only_thing_served_and_is_finite(name, states):
  result = ROWS[name].unlearn(KEY, states(name), Request(items=[1]))
  scorer = ROWS[name].scorer(result.state)
  assert isinstance(scorer, base.Scorer)
  scores = np.asarray(scorer.scores(np.arange(40)))
  assert scores.shape == (40, 30) and np.all(np.isfinite(scores))
  assert (scorer.embeddings is None) == ("neumf" in name)


@pytest.mark.parametrize("name", ROWS)
def test_a_pair_forgotten_twice_is_refused(name, states):
  data = states(name).interactions
  pair = (int(data.user[0]), int(data.item[0]))
  state = ROWS[name].unlearn(KEY, states(name), Request(pairs=[pair])).state
  with pytest.raises(ValueError, match="not there"):
    ROWS[name].unlearn(KEY, state, Request(pairs=[pair]))


@pytest.mark.parametrize("name", ROWS)
def test_a_state_survives_a_checkpoint(name, states, tmp_path):
  state = ROWS[name].unlearn(KEY, states(name), Request(items=[1])).state
  checkpoint.save(tmp_path / "state", state)
  restored, _ = checkpoint.restore(tmp_path / "state", state)
  assert leaves_equal(state, restored)
