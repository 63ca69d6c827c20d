"""`experiments.calibrate`: what it writes is what was tried, it resumes, and Retrain is a check that is not chosen."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments import _curves, _page_lines
from tests import scripts

METHODS = "rownewton,rownewton[num_rounds=2+scope=all],lightul-wm[num_epochs=1],retrain"
COMMAND = (
  f"calibrate --dataset=synthetic --methods={METHODS} --epochs=2 --held_out=0.2 --ratio=0.02 "
  "--bprmf.embedding_dim=4 --out=out"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("calibrate")

  def call(command):
    done = scripts.run(command, folder)
    path = folder / "out" / "result.json"
    return done, json.loads(path.read_text()) if path.exists() else None

  call.folder = folder
  return call


def test_as_a_command(run):
  done, result = run(COMMAND)
  assert done.returncode == 0, done.stderr
  tried = result["calibration"]
  assert list(tried) == METHODS.split(",")
  assert all(len(one["auc"]) == len(one["ndcg@20"]) == 2 for one in tried.values())
  assert all(one["mean"] == pytest.approx(np.mean(one["auc"])) for one in tried.values())
  assert tried[METHODS.split(",")[1]]["method"]["num_rounds"] == 2
  assert tried["lightul-wm[num_epochs=1]"]["method"]["phantoms"] is False
  choice = {name: one["mean"] for name, one in tried.items() if name != "retrain"}
  assert result["best"] == min(choice, key=lambda name: abs(choice[name] - 0.5))
  assert result["bracketed"] == (min(choice.values()) <= 0.5 <= max(choice.values()))
  assert all(one["before"] == result["before"] for one in tried.values())
  chosen = [line for line in done.stdout.splitlines() if line.endswith("chosen")]
  assert len(chosen) == 1 and f"{choice[result['best']]:.4f}" in chosen[0]

  (plot,) = _page_lines.check(_curves.of_result(result))
  series = {one["name"]: one["y"] for one in plot["series"]}
  assert series["RowNewton (ours)"] == [tried[name]["mean"] for name in METHODS.split(",")[:2]]
  assert series["Retrain"] == [tried["retrain"]["mean"]] * 2 and series["exact"] == [0.5, 0.5]
  assert "default; num_rounds=2, scope=all. LightUL-WM: num_epochs=1." in plot["note"]
  assert _curves._settings(["a=1+b=2", "a=2+b=2", "a=2+b=3"]) == "a=1, b=2; a=2; a=2, b=3"

  for name in ("retrain", "rownewton"):  # told again, they were not tried again; and Retrain is never the choice
    kept = run.folder / "out" / "found" / f"{name}.json"
    found = json.loads(kept.read_text())
    found["found"]["auc"] = [0.5, 0.5] if name == "retrain" else [0.5001, 0.5001]
    del found["identity"]["config"]["train"]["negatives"]  # as if it had been kept before there were such fields
    if name == "rownewton":
      del found["identity"]["method"]["item_draws"]
    kept.write_text(json.dumps(found))
  done, again = run(COMMAND)
  assert done.returncode == 0, done.stderr
  assert again["best"] == "rownewton" and again["calibration"]["retrain"]["mean"] == 0.5
  assert again["calibration"]["lightul-wm[num_epochs=1]"] == tried["lightul-wm[num_epochs=1]"]
  done, _ = run(f"{COMMAND} --rownewton.damping=0.5")
  assert done.returncode == 1 and "damping is 0.0 there and 0.5 here" in done.stderr and "--overwrite" in done.stderr


def test_a_choice_needs_settings(run):
  for methods, words in (("sisa", "methods='sisa' to be one of"), ("retrain", "beside retrain")):
    done, _ = run(COMMAND.replace(METHODS, methods))
    assert done.returncode == 1 and words in done.stderr, done.stderr
