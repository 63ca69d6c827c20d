import dataclasses
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import checkpoint, models
from jaxunlearn.train import TrainConfig, TrainData, fit, fit_with_selection, init_state, prepare, train_epoch
from tests.small import checkerboard, random_pairs

BPRMF = models.bprmf(models.BPRMFConfig(embedding_dim=8))
CONFIG = TrainConfig(num_epochs=3, batch_size=64, learning_rate=0.01, eval_every=1)


def equal(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def one_epoch(model, data, config, key=0, prepared=None):
  state = init_state(jax.random.key(key), model, data, config)
  context = model.context(data)
  prepared = prepared or prepare(model, data, config)
  return train_epoch(
    jax.random.key(key), state, context, prepared, jnp.float32(config.learning_rate), jnp.float32(config.average),
    jnp.float32(config.user_weight_power), model=model, optimizer=config.optimizer, batch_size=config.batch_size,
    num_negatives=config.num_negatives, avoid_positives=config.avoid_positives,
  )  # fmt: skip


def test_a_fit_is_a_function_of_its_key():
  data = random_pairs()
  first = fit(jax.random.key(0), BPRMF, data, CONFIG)
  assert equal(first.params, fit(jax.random.key(0), BPRMF, data, CONFIG).params)
  assert not equal(first.params, fit(jax.random.key(1), BPRMF, data, CONFIG).params)


@pytest.mark.parametrize("name", ["bprmf", "wmf"])
def test_padding_capacity_does_not_change_a_bit(name):
  data, model = random_pairs(), models.build(name)
  small = prepare(model, data, CONFIG)
  strata = small.strata
  if strata is not None:
    strata = strata._replace(users=jnp.pad(strata.users, ((0, 0), (0, 12)), constant_values=-1))
  large = TrainData(data.padded(4096), strata, small.num_pairs + 64 * (name == "wmf"))
  first, _, _ = one_epoch(model, data, CONFIG)
  second, _, _ = one_epoch(model, data, CONFIG, prepared=large)
  assert equal(first.params, second.params)


@pytest.mark.parametrize("name", ["bprmf", "neumf"])
@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
def test_a_row_sparse_epoch_equals_the_dense_one(name, optimizer):
  data, model = random_pairs(), models.build(name)
  dense = TrainConfig(optimizer=optimizer, batch_size=64, learning_rate=0.05, num_negatives=2)
  row = TrainConfig(optimizer=f"row_{optimizer}", batch_size=64, learning_rate=0.05, num_negatives=2)
  expected, loss, _ = one_epoch(model, data, dense)
  got, row_loss, _ = one_epoch(model, data, row)
  np.testing.assert_allclose(row_loss, loss, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), got.params, expected.params)


def test_lazy_adam_leaves_rows_without_gradient():
  data = random_pairs(num_users=60)
  data = data.select(data.user < 50)
  config = TrainConfig(optimizer="row_adam", batch_size=64, learning_rate=0.05)
  before = init_state(jax.random.key(0), BPRMF, data, config).params["user"]
  after, _, _ = one_epoch(BPRMF, data, config)
  assert np.array_equal(before[50:], after.params["user"][50:])
  assert not np.array_equal(before[:50], after.params["user"][:50])


def test_large_batches_keep_the_course_of_training_where_adam_is_adjusted():
  # Scores that start wide (standard deviation 8) fade as they saturate: averages over as many *steps* then hold a
  # larger batch back by epochs, whatever its step.
  data = random_pairs(num_users=120, num_items=150, num_pairs=3000)
  model = models.bprmf(models.BPRMFConfig(init_scale=1.0, l2=1e-4, loss="double_sigmoid"))

  def losses(**settings):
    config = TrainConfig(num_epochs=60, average=0.0, user_weight_power=0.0, **{"learning_rate": 5e-3, **settings})
    return np.array([record["loss"] for record in fit(jax.random.key(0), model, data, config).history[20:]])

  small = losses(batch_size=16)
  adjusted = losses(batch_size=128, reference_batch_size=16) - small
  step_alone = losses(batch_size=128, learning_rate=5e-3 * 8**0.5) - small
  assert np.abs(adjusted).mean() < 0.25 * step_alone.mean(), (adjusted, step_alone)


def test_a_reference_batch_size_is_for_adam_alone():
  assert TrainConfig(batch_size=64, reference_batch_size=256).batch_factor == 0.25
  assert TrainConfig(batch_size=64).batch_factor == 1
  with pytest.raises(ValueError, match="optimizer='adam' with reference_batch_size=64, got 'row_sgd'"):
    TrainConfig(optimizer="row_sgd", reference_batch_size=64)
  with pytest.raises(ValueError, match="reference_batch_size"):
    TrainConfig(reference_batch_size=0)


def test_row_optimizers_are_refused_where_every_row_moves():
  with pytest.raises(ValueError, match="dense optimizer for lightgcn"):
    fit(jax.random.key(0), models.lightgcn(), random_pairs(), TrainConfig(optimizer="row_adam"))


def test_learning_rate_and_average_do_not_retrace():
  data = random_pairs()
  fit(jax.random.key(0), BPRMF, data, CONFIG)
  traced = train_epoch._cache_size()
  fit(
    jax.random.key(3),
    BPRMF,
    data.select(np.arange(len(data) - 7)),
    TrainConfig(num_epochs=2, batch_size=64, average=0.5),
  )
  assert train_epoch._cache_size() == traced


def test_the_average_is_a_running_mean_of_the_epochs():
  data = random_pairs()
  seen = [
    fit(jax.random.key(0), BPRMF, data, TrainConfig(num_epochs=n, batch_size=64, average=0.0)).params for n in (1, 2, 3)
  ]
  got = fit(jax.random.key(0), BPRMF, data, TrainConfig(num_epochs=3, batch_size=64, average=0.9)).params
  for name in ("user", "item"):
    np.testing.assert_allclose(got[name], np.mean([p[name] for p in seen], axis=0), atol=1e-6)


def test_user_weights_change_what_is_learned():
  data = random_pairs()
  plain = fit(jax.random.key(0), BPRMF, data, TrainConfig(num_epochs=1, batch_size=64, user_weight_power=0.0)).params
  weighed = fit(jax.random.key(0), BPRMF, data, TrainConfig(num_epochs=1, batch_size=64, user_weight_power=1.0)).params
  assert not equal(plain, weighed)


def test_early_stopping_returns_the_best_epoch():
  data = checkerboard()
  config = TrainConfig(num_epochs=60, batch_size=128, learning_rate=0.05, eval_every=2, patience=3, average=0.0)
  result = fit_with_selection(jax.random.key(0), BPRMF, data, config, refit=False)
  scores = {r["epoch"]: r["validation_ndcg@20"] for r in result.history if "validation_ndcg@20" in r}
  assert result.num_epochs == max(scores, key=scores.get)
  last = max(scores)
  assert last == 60 or sum(epoch > result.num_epochs for epoch in scores) == 3


def test_refit_trains_on_all_pairs_for_the_selected_epochs():
  data = checkerboard()
  config = TrainConfig(num_epochs=6, batch_size=128, learning_rate=0.05, eval_every=2)
  selected = fit_with_selection(jax.random.key(0), BPRMF, data, config, refit=False)
  refitted = fit_with_selection(jax.random.key(0), BPRMF, data, config)
  plain = fit(
    jax.random.key(0), BPRMF, data, TrainConfig(num_epochs=selected.num_epochs, batch_size=128, learning_rate=0.05)
  )
  assert equal(refitted.params, plain.params)


def test_divergence_names_the_epoch_and_step():
  with pytest.raises(ValueError, match=r"not finite at epoch 1, step \d+ \(learning_rate=1e\+38"):
    fit(
      jax.random.key(0),
      BPRMF,
      random_pairs(),
      TrainConfig(num_epochs=2, batch_size=64, learning_rate=1e38, optimizer="sgd"),
    )


def test_nothing_to_train_on_is_refused():
  with pytest.raises(ValueError, match="at least one training pair"):
    fit(jax.random.key(0), BPRMF, random_pairs().select(np.zeros(0, int)), CONFIG)


@pytest.mark.parametrize(
  "change",
  [
    {"num_epochs": 0},
    {"optimizer": "adamm"},
    {"average": 1.5},
    {"validation_fraction": 0.0},
    {"learning_rate": -1},
    {"monitor": "ndcg"},
    {"monitor": "mrr@10"},
    {"monitor": "ndcg@0"},
  ],
)
def test_bad_configurations_are_refused(change):
  with pytest.raises(ValueError, match=next(iter(change))):
    TrainConfig(**change)


def test_a_warm_start_begins_at_the_given_parameters():
  data = random_pairs()
  params = BPRMF.init(jax.random.key(9), data.num_users, data.num_items)
  kept = jax.tree.map(np.asarray, params)
  config = TrainConfig(num_epochs=1, batch_size=64, learning_rate=1e-8)
  result = fit(jax.random.key(0), BPRMF, data, config, params=params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), result.params, kept)
  assert equal(params, kept)  # not donated


def test_a_warm_start_of_other_axes_or_another_model_is_refused():
  data = random_pairs(0, num_users=30, num_items=20, num_pairs=200)
  start = BPRMF.init(jax.random.key(1), 30, 20)
  for params, words in (
    (BPRMF.init(jax.random.key(1), 29, 20), r"params\['user'\] of shape \(30, 8\) .*got \(29, 8\); .*the same axes"),
    (BPRMF.init(jax.random.key(1), 30, 21), r"params\['item'\] of shape \(20, 8\) .*got \(21, 8\)"),
    ({**start, "bias": jnp.zeros(2)}, r"params\['bias'\] of shape none at all for bprmf"),
    ({"user": start["user"]}, r"params\['item'\] of shape \(20, 8\) .*got none"),
  ):
    with pytest.raises(ValueError, match=words):
      fit(jax.random.key(0), BPRMF, data, CONFIG, params=params)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
  data = random_pairs()
  fit(jax.random.key(0), BPRMF, data, CONFIG, checkpoint_dir=tmp_path)
  other = models.bprmf(models.BPRMFConfig(embedding_dim=8, l2=0.5))
  for key, model in ((1, BPRMF), (0, other)):
    with pytest.raises(ValueError, match="holds another run"):
      fit(jax.random.key(key), model, data, CONFIG, checkpoint_dir=tmp_path)


def test_checkpoints_from_before_the_reference_batch_size_go_on_and_those_with_another_do_not(tmp_path):
  data = random_pairs()
  fit(jax.random.key(0), BPRMF, data, CONFIG, checkpoint_dir=tmp_path)
  stored = checkpoint.read_metadata(sorted(tmp_path.glob("step_*"))[-1])["identity"]["config"]
  assert "learning_rate" in stored and "reference_batch_size" not in stored  # as those that were written without it
  with pytest.raises(ValueError, match="holds another run: config is"):
    fit(jax.random.key(0), BPRMF, data, dataclasses.replace(CONFIG, reference_batch_size=32), checkpoint_dir=tmp_path)


def test_a_checkpoint_of_another_start_is_refused(tmp_path):
  data = random_pairs()
  starts = [BPRMF.init(jax.random.key(seed), data.num_users, data.num_items) for seed in (1, 2)]
  one = fit(jax.random.key(0), BPRMF, data, CONFIG, params=starts[0], checkpoint_dir=tmp_path)
  again = fit(jax.random.key(0), BPRMF, data, CONFIG, params=starts[0], checkpoint_dir=tmp_path)
  assert equal(one.params, again.params)
  for params in (starts[1], None):
    with pytest.raises(ValueError, match="holds another run: params is"):
      fit(jax.random.key(0), BPRMF, data, CONFIG, params=params, checkpoint_dir=tmp_path)
  graph, folder = models.lightgcn(models.LightGCNConfig(embedding_dim=8)), tmp_path / "graph"
  part = data.select(np.arange(len(data)) % 2 == 0)
  fit(jax.random.key(0), graph, data, CONFIG, context=graph.context(part), checkpoint_dir=folder)
  with pytest.raises(ValueError, match="holds another run: context is"):
    fit(jax.random.key(0), graph, data, CONFIG, checkpoint_dir=folder)


KILLED = """
import sys, jax
from jaxunlearn import models
from jaxunlearn.train import TrainConfig, fit
from tests.small import random_pairs
config = TrainConfig(
  num_epochs=int(sys.argv[2]), batch_size=64, learning_rate=0.01, checkpoint_every=1, eval_every=2, patience=99
)
model = models.bprmf(models.BPRMFConfig(embedding_dim=8))
data = random_pairs()
validation = data.select(data.user == 39)
fit(jax.random.key(0), model, data.select(data.user < 39), config, validation=validation, checkpoint_dir=sys.argv[1])
"""


def test_killed_and_resumed_training_is_bitwise_the_uninterrupted_one(tmp_path):
  data, epochs = random_pairs(), 30
  config = TrainConfig(
    num_epochs=epochs, batch_size=64, learning_rate=0.01, checkpoint_every=1, eval_every=2, patience=99
  )
  train, validation = data.select(data.user < 39), data.select(data.user == 39)
  whole = fit(jax.random.key(0), BPRMF, train, config, validation=validation)
  process = subprocess.Popen(
    [sys.executable, "-c", KILLED, str(tmp_path), str(epochs)], env={**os.environ, "PYTHONPATH": os.getcwd()}
  )
  deadline = time.monotonic() + 120
  while not (tmp_path / "step_00000005").exists() and time.monotonic() < deadline and process.poll() is None:
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
  reached = max(int(p.name[5:]) for p in tmp_path.glob("step_*"))
  assert 5 <= reached < epochs
  resumed = fit(jax.random.key(0), BPRMF, train, config, validation=validation, checkpoint_dir=tmp_path)
  assert equal(whole.params, resumed.params)
  assert whole.num_epochs == resumed.num_epochs
  assert whole.history == resumed.history
