"""The benchmark on small data: its rows, that both sides compute the same, and what happens without a library."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments import _bench, _bench_rows, _bench_torch
from jaxunlearn import models, partition
from jaxunlearn.base import Batch
from jaxunlearn.train import TrainConfig, fit
from tests.small import random_pairs

ROOT = Path(__file__).parents[2]
FIELDS = set(_bench.Row._fields)


def run_script(out, *arguments, **environment):
  command = [sys.executable, "-m", "experiments.benchmark", "--dataset=synthetic", "--repeats=1", f"--out={out}"]
  return subprocess.run(
    [*command, *arguments], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
  )


def torch_and_ours(layout="coo", **changes):
  data = random_pairs()
  model = models.lightgcn(models.LightGCNConfig(embedding_dim=8, num_layers=2, l2=1e-2))
  params, graph = model.init(jax.random.key(0), data.num_users, data.num_items), model.context(data)
  negative = jnp.asarray((data.item[:64] + 1) % data.num_items)[:, None]
  batch = Batch(jnp.asarray(data.user[:64]), jnp.asarray(data.item[:64]), negative, jnp.ones(64))
  settings = {"layout": layout, "num_layers": 2, "l2": 1e-2, "learning_rate": 1e-3, **changes}
  other = _bench_torch.TorchLightGCN(params, graph, **settings)
  return other, lambda: jax.value_and_grad(model.loss)(params, graph, batch), batch


def test_ratios_are_of_the_same_round(monkeypatch):
  clock = iter([0, 2, 0, 4, 0, 2, 0, 1, 0, 9, 0, 3])  # seconds of ours, the other's; three rounds
  monkeypatch.setattr(_bench.time, "perf_counter", lambda: float(next(clock)))
  sides = [_bench.Side(name, lambda: None, units) for name, units in (("a", 1), ("b", 2))]
  (row,) = _bench.compare("r", "w", sides[:1], [_bench.Target(sides[1], 5.0)], repeats=3)
  assert row.ours_values == [2, 2, 9] and row.other_values == [2, 0.5, 1.5]
  assert row.ours_seconds == 2 and row.other_seconds == 1.5
  assert row.ratio == 4 and row.reached and row.headline
  json.dumps(row._asdict())


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_pytorch_computes_the_same_step(layout):
  pytest.importorskip("torch")
  other, ours, batch = torch_and_ours(layout)
  _bench_torch.check_agreement(other, ours, batch)
  drawn = other.batch(batch)
  losses = [other.step(drawn) for _ in range(30)]
  assert losses[-1] < losses[0]


@pytest.mark.parametrize(("changes", "message"), [({"l2": 2e-2}, "loss"), ({"num_layers": 1}, "loss|gradient")])
def test_another_step_is_noticed(changes, message):
  pytest.importorskip("torch")
  with pytest.raises(ValueError, match=f"same ({message})"):
    _bench_torch.check_agreement(*torch_and_ours(**changes))


def test_another_gradient_is_noticed():
  pytest.importorskip("torch")
  other, ours, batch = torch_and_ours()
  loss, grads = ours()
  grads = {**grads, "item": grads["item"].at[3, 2].add(1e-3)}
  with pytest.raises(ValueError, match="1 of .* entries of the item table"):
    _bench_torch.check_agreement(other, lambda: (loss, grads), batch)


def test_a_padded_batch_is_refused():
  pytest.importorskip("torch")
  other, _, batch = torch_and_ours()
  with pytest.raises(ValueError, match="without padding"):
    other.batch(batch._replace(weight=batch.weight.at[-1].set(0)))


def test_rows_against_pytorch():
  pytest.importorskip("torch")
  rows = _bench_rows.lightgcn_rows(random_pairs(), 1)
  assert [(row.other, round(1 / row.target)) for row in rows] == [("PyTorch COO", 6), ("PyTorch CSR", 3)]


def test_rows_against_implicit():
  pytest.importorskip("implicit")
  rows = _bench_rows.bpr_rows(random_pairs(), 1)
  assert len(rows) == 4 and sum(row.headline for row in rows) == 1
  assert all(row.ratio > 0 and row.target == 2 for row in rows)


def test_rows_of_shards_against_the_whole():
  rows = _bench_rows.shard_rows(random_pairs(), 1)
  assert [row.work for row in rows] == ["bprmf epoch, batch 33, adam", "lightgcn epoch, batch 33, adam"]
  assert all(row.headline and row.target == 1.3 and row.ratio > 0 for row in rows)
  assert {(row.ours, row.other) for row in rows} == {("train_shards, 10 shards", "fit, all pairs")}


def test_shards_and_whole_train_on_as_many_pairs():
  data, model, config = random_pairs(), models.bprmf(), TrainConfig(num_epochs=1, batch_size=40)
  parts = partition.random(jax.random.key(1), data, 4).shards(data)
  shards, whole = _bench_rows._shards_and_whole(model, parts, data, config, jax.random.key(0))
  alone = fit(jax.random.key(0), model, data, config, progress=False).params
  assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), whole.run(), alone))
  trained = shards.run()
  assert len(trained) == 4 and sum(map(len, parts)) == len(data)
  for shard, (part, params) in enumerate(zip(parts, trained, strict=True)):
    alone = fit(jax.random.fold_in(jax.random.key(0), shard), model, part, config, progress=False).params
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.allclose(a, b, rtol=1e-4, atol=1e-6), params, alone))


def test_the_script_writes_strict_json(tmp_path):
  pytest.importorskip("implicit")
  done = run_script(tmp_path, "--rows=ranking")
  assert done.returncode == 0, done.stderr
  result = json.loads((tmp_path / "result.json").read_text())
  assert {row["row"] for row in result["benchmark"]} == {"ranking"}
  assert all(row.keys() == FIELDS for row in result["benchmark"])
  assert result["skipped"] == {} and result["device"]["platform"] == "cpu"
  assert {"torch", "implicit", "jax"} <= result["versions"].keys()
  assert "implicit, recommend" in done.stdout and "result.json" in done.stderr


def test_a_missing_library_leaves_its_rows_out(tmp_path):
  for name in ("torch", "implicit"):
    (tmp_path / f"{name}.py").write_text("raise ImportError('not here')\n")
  done = run_script(tmp_path / "out", "--rows=lightgcn,bpr,ranking", PYTHONPATH=str(tmp_path))
  assert done.returncode == 0, done.stderr
  assert done.stderr.count("jaxunlearn[bench]") == 3
  result = json.loads((tmp_path / "out" / "result.json").read_text())
  assert result["benchmark"] == [] and result["skipped"].keys() == {"lightgcn", "bpr", "ranking"}


def test_an_unknown_row_is_one_line(tmp_path):
  done = run_script(tmp_path, "--rows=speed")
  assert done.returncode == 1 and "ranking" in done.stderr and "Traceback" not in done.stderr
