"""The papers' tables: the numbers beside ours, what lies inside Retrain's noise, and the command that runs a part."""

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import _report, _results
from experiments._reproductions import floor, lines, verdict
from experiments._tables import TABLES
from tests import scripts
from tests.scripts import ROOT

KEPT = ROOT / "experiments" / "results"


def row(method, values, metric="utility.ndcg@20"):
  return _report.Row(method, "bprmf", "ml-1m", {metric: values}, tuple(range(len(values))))


def test_the_floor_is_the_t_interval_of_a_difference_of_means():
  retrain = row("retrain", [0.36, 0.37, 0.38])  # mean 0.37, standard deviation 0.01
  mean, width = floor(retrain, "utility.ndcg@20", 6)
  assert (mean, width) == (pytest.approx(0.37), pytest.approx(4.302653 * 0.01 * math.sqrt(1 / 6 + 1 / 3), rel=1e-5))


@pytest.mark.parametrize(
  ("values", "wanted"),
  [([0.36, 0.38], "inside"), ([0.405, 0.409], "inside"), ([0.412, 0.412], "above"), ([0.32, 0.33], "below"),
   ([float("nan")], "–")],
)  # fmt: skip
def test_a_mean_is_inside_above_or_below(values, wanted):
  retrain = row("retrain", [0.36, 0.37, 0.38])  # for two seeds 4.30 · 0.01 · √(1/2 + 1/3) = 0.0393
  assert verdict(row("ifru", values), retrain, "utility.ndcg@20") == wanted


@pytest.mark.parametrize(("num_seeds", "num_retrain"), [(1, 3), (3, 3), (2, 5), (5, 5)])
def test_a_method_that_is_retraining_is_inside_in_95_of_100_cases(num_seeds, num_retrain):
  rng = np.random.default_rng(0)
  drawn = [
    verdict(row("ifru", list(rng.normal(size=num_seeds))), row("retrain", list(rng.normal(size=num_retrain))),
            "utility.ndcg@20")
    for _ in range(2000)
  ]  # fmt: skip
  assert abs(drawn.count("inside") / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_few_seeds_of_retrain_say_little_and_itself_has_no_verdict():
  assert verdict(row("ifru", [0.1]), row("retrain", [0.37]), "utility.ndcg@20") == "–"
  assert verdict(row("ifru", [0.1]), None, "utility.ndcg@20") == "–"
  two = row("retrain", [0.36, 0.38])
  for method in ("retrain", "original"):
    assert verdict(row(method, [0.1]), two, "utility.ndcg@20") == "–"
  assert verdict(row("ifru", [0.37, 0.37]), two, "utility.ndcg@20") == "–"  # near, as far as two seeds can tell
  assert verdict(row("ifru", [0.17, 0.17]), two, "utility.ndcg@20") == "below"  # 12.7 · 0.014 · 1 = 0.18 away


KEPT_TABLES = [name for name, table in TABLES.items() if table.kept]


@pytest.mark.parametrize("name", KEPT_TABLES)
def test_the_kept_results_have_every_number_that_was_printed(name):
  """A reader finds ours beside the paper's: no printed row without a result of ours, where we ran the model."""
  table = TABLES[name]
  rows = _report.collect(_results.load_results([KEPT / folder for folder in table.kept]))
  heads, body = lines(rows, table)
  assert body and all(len(line) == len(heads) for line in body)
  beside = {metric: heads.index(_report.label(metric)) + 1 for metric in table.metrics}
  found = 0
  for row, line in zip(rows, body, strict=True):
    for metric, number in table.printed(row).items():
      if metric in table.metrics:
        assert heads[beside[metric]] == "paper" and float(line[beside[metric]]) == pytest.approx(
          number, abs=0.5e-4 if number < 1 else 0.5
        )
        found += 1
  assert (found > 0) == bool(table.paper)
  wanted = "Original" if name.startswith("originals") else "Retrain"
  assert any(line[heads.index("method")] == wanted for line in body)


def test_the_papers_number_is_of_the_method_and_not_of_a_variant_of_it():
  table = TABLES["lightul-interactions"]
  for method in ("lightul", "lightul[preserve]", "lightul[released]"):
    assert table.printed(row(method, [0.3]))["completeness.auc"] == 0.6891
  assert table.printed(row("receraser-ubp", [0.3])) == table.printed(row("receraser", [0.3])) != {}
  assert table.printed(row("lightul[preserve+phantom_ratio=0.1]", [0.3])) == table.printed(row("sisa", [0.3])) == {}


def test_a_variant_that_is_the_papers_own_setting_has_its_number():
  table = TABLES["lightul-as-published"]
  assert table.printed(row("laser[num_groups=3]", [0.3])) == table.printed(row("laser", [0.3])) != {}
  assert table.printed(row("laser[num_groups=4]", [0.3])) == {}
  for method in table.alias:
    assert any(method in part.flags[-2].split(",") for part in table.parts.values())


def test_a_part_is_a_command_of_compare():
  part = TABLES["lightul-interactions"].parts["ml-1m-bprmf"]
  command = part.command("/data", Path("runs/here"), seeds=2)
  assert command[0] == "experiments.compare" and "--forget=/data/ml-1m/forget/intr_0.01.txt" in command
  assert command[-2:] == ["--seeds=2", "--out=runs/here"]
  assert part.command("/data", Path("x"))[-2] == "--seeds=5"


CHECK = """
import importlib, json, sys
from absl import flags
from absl.testing import flagsaver
script = importlib.import_module(sys.argv[1])
for command in json.load(sys.stdin):
  saved = flagsaver.save_flag_values()
  flags.FLAGS(command)
  script.recipes() if sys.argv[1].endswith("compare") else script.group_epochs()
  flagsaver.restore_flag_values(saved)
  print(command[0])
"""


@pytest.mark.parametrize(
  ("name", "wrong", "words"),
  [
    ("experiments.compare", ["--models=bprmf", "--methods=laser[graph=own]"], 'graph="seen" for bprmf'),
    ("experiments.ports", ["--group_epochs=4,0"], "whole numbers from 1, got '4,0'"),
  ],
)
def test_every_part_is_a_command_that_its_script_takes(name, wrong, words):
  """Flags that exist, methods that are defined for the models: what a script finds out before it trains."""
  commands = [part.command("/data", Path("x")) for table in TABLES.values() for part in table.parts.values()]
  commands = [command for command in commands if command[0] == name]
  given = json.dumps([*commands, [name, *wrong]])
  done = subprocess.run(
    [sys.executable, "-c", CHECK, name], input=given, capture_output=True, text=True, check=False, cwd=ROOT
  )
  assert done.stdout.splitlines() == [name] * len(commands), done.stderr
  assert done.returncode and words in done.stderr


def script(folder, *flags):
  return scripts.run(shlex.join(["reproduce", *flags]), folder)


def test_a_table_is_run_written_and_resumed(tmp_path):
  done = script(tmp_path, "--table=synthetic", "--seeds=1")
  assert done.returncode == 0, done.stderr
  text = (tmp_path / "runs/reproduce/synthetic/table.md").read_text(encoding="utf-8")
  assert "| RowNewton (ours) | 1 |" in text and "python -m experiments.compare --dataset=synthetic" in text
  assert "python -m experiments.compare" in done.stderr and (tmp_path / "runs/reproduce/synthetic/index.html").exists()
  cells = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
  assert len(cells) == 3
  again = script(tmp_path, "--table=synthetic", "--seeds=1", "--quiet")
  assert again.returncode == 0 and not again.stdout and not again.stderr
  assert cells == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (
      ["--table=receraser-3", "--parts=gru4rec"],
      "yelp2018-bprmf, yelp2018-wmf, yelp2018-lightgcn, got gru4rec",
    ),
    (["--table=lightul-users"], "--data_dir, or $JAXUNLEARN_DATA"),
    (["--table=receraser-3", "--norun", "--parts=bprmf"], "without --norun"),
    (["--table=synthetic", "--norun"], "none of its results are kept"),
  ],
)
def test_what_cannot_be_run_is_said_at_once(tmp_path, flags, words):
  done = script(tmp_path, *flags)
  assert done.returncode == 1 and words in done.stderr, done.stderr
