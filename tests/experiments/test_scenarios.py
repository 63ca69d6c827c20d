"""The script of scenarios: what is injected or asked for is forgotten, and what people are shown is in every cell."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import _results

ROOT = Path(_results.__file__).parents[1]
SMALL = "--train.batch_size=256 --bprmf.embedding_dim=8 --seeds=1 --quiet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder with data/ml-100k, ratings and genres of 60 × 40; the working directory of every command."""
  folder = tmp_path_factory.mktemp("scenarios")
  place, rng = folder / "data" / "ml-100k", np.random.default_rng(0)
  place.mkdir(parents=True)
  rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
  rows += [f"{u + 1}\t{i + 1}\t4\t{100 * u + i}" for u in range(60) for i in range(40) if rng.random() < 0.4]
  (place / "ml-100k.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
  genres = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
  genres += [f'{i + 1}\t"Odd" title\t1995\t{"Horror Drama" if i % 8 == 0 else "Drama"}' for i in range(40)]
  (place / "ml-100k.item").write_text("\n".join(genres) + "\n", encoding="utf-8")
  return folder


def script(folder, flags):
  environment = {name: value for name, value in os.environ.items() if name != "JAXUNLEARN_DATA"}
  return subprocess.run(
    [sys.executable, "-m", "experiments.scenarios", "--data_dir=data", *flags.split()], cwd=folder, check=False,
    capture_output=True, text=True, encoding="utf-8", timeout=300,
    env=environment | {"PYTHONPATH": str(ROOT), "JAXUNLEARN_CACHE": str(folder / "cache")},
  )  # fmt: skip


def test_a_genre_is_asked_for_and_forgotten(folder):
  done = script(folder, f"--scenario=category --category=Horror --share=0.3 --epochs=3 {SMALL} --out=out "
                        "--methods=original,retrain,rownewton")  # fmt: skip
  assert done.returncode == 0, done.stderr
  cells = {p.parts[-3]: json.loads(p.read_text(encoding="utf-8")) for p in (folder / "out").rglob("result.json")}
  assert cells.keys() == {"original", "retrain", "rownewton"}
  for cell in cells.values():
    assert 0 <= cell["completeness"]["exposure@10"] <= cell["completeness"]["exposure@20"] <= 1
    assert cell["completeness"]["shown@20"] <= 5  # items 1, 9, 17, 25, 33 are Horror
  table = (folder / "out" / "table.md").read_text(encoding="utf-8")
  assert "Exposure@20" in table and "RowNewton" in table


def test_spam_without_an_unpopular_item_is_refused(folder):
  done = script(folder, f"--scenario=spam --share=0.1 --epochs=1 {SMALL} --methods=original --out=spam")
  assert done.returncode == 1 and "num_targets=5" in done.stderr  # every item here has more than ten pairs


@pytest.mark.parametrize(
  ("flags", "words"),
  [("--category=Western", "--category of Drama, Horror, got 'Western'"), ("--category=Horror --seeds=0", "seeds=0")],
)
def test_what_is_not_there_is_said(folder, flags, words):
  done = script(folder, f"--scenario=category --epochs=1 --out=none --quiet {flags}")
  assert done.returncode == 1 and words in done.stderr, done.stderr
