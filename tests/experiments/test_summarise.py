"""Pooling of seeds: the numbers of a table are the same from the summaries as from the cells."""

import copy
import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import _report, _results
from experiments._results import plain
from jaxunlearn.unlearn.sisa import SISAConfig

ROOT = Path(_results.__file__).parents[1]


def cell(method, seed, ndcg, auc, seconds, **changes):
  result = _results.make_result(
    method=method, model="bprmf", dataset="ml-1m", seeds=[seed], config={"train": {"num_epochs": 3}},
    data_hash="d" * 64, forget_hash="f" * 64,
    utility={"ndcg@20": ndcg}, completeness={"auc": auc}, efficiency={"unlearn_seconds": seconds},
    info={"long": list(range(50))},
  )  # fmt: skip
  return {**result, **changes}


CELLS = [
  cell("retrain", 1, 0.3, 0.55, 10.0),
  cell("retrain", 0, 0.4, 0.57, None),
  cell("ifru", 0, 0.35, 0.5, 1.0),
  cell("ifru", 1, 0.36, 0.52, 2.0, forget_hash="e" * 64),
]


def call(script, name, value):
  """A script's function in a process of its own: scripts define flags, two of them in one process clash."""
  code = f"import json, sys; from experiments.{script} import {name}; print(json.dumps({name}(json.load(sys.stdin))))"
  done = subprocess.run(
    [sys.executable, "-c", code], input=json.dumps(value), capture_output=True, text=True, cwd=ROOT, check=False
  )
  if done.returncode:
    raise ValueError(done.stderr.splitlines()[-1])
  return json.loads(done.stdout)


@pytest.fixture(scope="module")
def pool():
  """`summarise.pool`."""
  return functools.partial(call, "summarise", "pool")


def test_seeds_are_pooled_in_order_and_tables_stay_the_same(pool):
  retrain, first, second = pool(CELLS)
  assert retrain["seeds"] == [0, 1] and retrain["info"] == {}
  assert retrain["utility"]["ndcg@20"]["values"] == [0.4, 0.3]
  assert retrain["utility"]["ndcg@20"]["mean"] == pytest.approx(0.35)
  assert retrain["efficiency"]["unlearn_seconds"]["values"] == [None, 10.0] and "devices" not in retrain
  assert retrain["efficiency"]["unlearn_seconds"]["mean"] == 10.0  # of the seed that has one
  assert (first["forget_hash"], second["forget_hash"]) == ("f" * 64, "e" * 64)
  same = CELLS[:3]
  columns = ["utility.ndcg@20", "completeness.auc", "completeness.auc_distance"]
  assert _report.cells(_report.collect(pool(same)), columns) == _report.cells(_report.collect(same), columns)


def test_results_that_do_not_belong_together_are_refused(pool):
  twice = [CELLS[0], copy.deepcopy(CELLS[0])]
  with pytest.raises(ValueError, match="share a seed"):
    pool(twice)
  other = {**CELLS[1], "config": {"train": {"num_epochs": 4}}}
  with pytest.raises(ValueError, match="differ in their configuration"):
    pool([CELLS[0], other])


def test_a_field_newer_than_a_result_counts_as_its_default(pool):
  old = cell("sisa[num_slices=2]", 0, 0.3, 0.5, 1.0, config={"method": {"num_shards": 10, "num_slices": 2}})
  new = {**plain(SISAConfig(num_slices=2)), "early_stopping": False}
  (pooled,) = pool([old, cell("sisa[num_slices=2]", 1, 0.4, 0.5, 1.0, config={"method": new})])
  assert pooled["seeds"] == [0, 1]
  with pytest.raises(ValueError, match="differ in their configuration"):
    pool([old, cell("sisa[num_slices=2]", 1, 0.4, 0.5, 1.0, config={"method": {**new, "early_stopping": True}})])


def test_a_field_of_the_training_newer_than_a_result_counts_as_its_default(pool):
  inner = {"num_epochs": 4, "batch_size": 8}
  old = {"train": {"num_epochs": 3}, "shard_train": {"num_epochs": 2}, "method": {"aggregate": {"train": inner}}}
  newer = {"reference_batch_size": None}
  new = {
    "train": {**old["train"], **newer},
    "shard_train": {**old["shard_train"], **newer},
    "method": {"aggregate": {"train": {**inner, **newer}}},
  }
  first = cell("receraser", 0, 0.3, 0.5, 1.0, config=old)
  (pooled,) = pool([first, cell("receraser", 1, 0.4, 0.5, 1.0, config=new)])
  assert pooled["seeds"] == [0, 1]
  new["shard_train"]["reference_batch_size"] = 512
  with pytest.raises(ValueError, match="configuration"):
    pool([first, cell("receraser", 1, 0.4, 0.5, 1.0, config=new)])


def test_a_field_of_an_ablation_newer_than_a_result_counts_as_its_default(pool):
  old = {"kind": "mean", "train": {"num_epochs": 4}}
  new = {**old, "transfer": True, "train": {"num_epochs": 4, "reference_batch_size": None}}
  first = cell("ubp-10-mean", 0, 0.3, 0.5, 1.0, config={"partition": "ubp", "aggregate": old})
  second = cell("ubp-10-mean", 1, 0.4, 0.5, 1.0, config={"partition": "ubp", "aggregate": new})
  (pooled,) = pool([first, second])
  assert pooled["seeds"] == [0, 1]
  second["config"]["aggregate"]["transfer"] = False
  with pytest.raises(ValueError, match="configuration"):
    pool([first, second])


def test_the_curves_of_an_ablation_are_the_same_from_pooled_seeds(pool):
  def one(partition, seed, recall):
    config = {"partition": partition, "num_shards": 10, "aggregate": {"kind": "mean"}}
    result = cell(f"{partition}-10-mean", seed, 0.3, 0.5, 1.0, config=config)
    return {**result, "utility": {"recall@20": recall}}

  cells = [one("ubp", 0, 0.25), one("ubp", 1, 0.5), one("ibp", 0, 0.125), one("ibp", 1, 0.375)]
  (drawn,) = call("shards", "curves", cells)
  (series,) = drawn["series"]
  assert series["x"] == ["ubp", "ibp"] and series["y"] == [0.375, 0.25]
  assert series["sd"] == pytest.approx([0.25 / math.sqrt(2)] * 2)
  assert call("shards", "curves", pool(cells)) == [drawn]


def test_as_a_command(tmp_path):
  for number, result in enumerate(CELLS):
    _results.write_result(tmp_path / "runs" / str(number), result)
  done = subprocess.run(
    [sys.executable, "-m", "experiments.summarise", "--out=kept", "runs"],
    capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  kept = _results.load_results(tmp_path / "kept")
  assert len(kept) == 3 and all(math.isfinite(one["utility"]["ndcg@20"]["mean"]) for one in kept)
  assert (tmp_path / "kept" / "ffffffff" / "ml-1m" / "bprmf" / "retrain" / "result.json").stat().st_size < 3000


def test_pooled_seeds_remember_what_they_were_measured_on_and_never_mix_data(pool):
  one, two = {"kind": "cpu", "cores": 1}, {"kind": "cpu", "cores": 2}
  cells = [cell("retrain", seed, 0.3, 0.5, 9.0, device=device) for seed, device in ((1, one), (0, two))]
  (made,) = pool(cells)
  assert made["devices"] == [two, one]
  (again,) = pool([made, cell("retrain", 2, 0.3, 0.5, 9.0, device=one)])
  assert again["devices"] == [two, one, one] and _report.collect([again])[0].devices == (two, one, one)
  assert len(pool([cells[0], {**cells[1], "data_hash": "e" * 64}])) == 2
