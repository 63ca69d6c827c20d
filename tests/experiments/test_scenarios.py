"""The script of scenarios: what is injected or asked for is forgotten, and what people are shown is in every cell."""

import json

import jax
import numpy as np
import pytest

from jaxunlearn import checkpoint
from jaxunlearn.data import datasets
from jaxunlearn.data.scenarios import bandwagon
from jaxunlearn.models import BPRMFConfig, bprmf
from jaxunlearn.train import TrainConfig, fit
from tests import scripts

SMALL = "--train.batch_size=256 --bprmf.embedding_dim=8 --seeds=1 --quiet"


def write(place, rows, num_items):
  """Ratings, and genres of the items, in the columns of RecBole."""
  place.mkdir(parents=True)
  lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
  lines += [f"{user + 1}\t{item + 1}\t4\t{100 * user + item}" for user, item in rows]
  (place / "ml-100k.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
  genres = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
  genres += [f'{i + 1}\t"Odd" title\t1995\t{"Horror Drama" if i % 8 == 0 else "Drama"}' for i in range(num_items)]
  (place / "ml-100k.item").write_text("\n".join(genres) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder with data/ml-100k, ratings and genres of 60 × 40, and rare/ml-100k, with eight unpopular items more.

  It is the working directory of every command.
  """
  folder, rng = tmp_path_factory.mktemp("scenarios"), np.random.default_rng(0)
  rows = [(u, i) for u in range(60) for i in range(40) if rng.random() < 0.4]
  write(folder / "data" / "ml-100k", rows, 40)
  rare = [(u, i) for u in range(60) for i in range(40, 48) if rng.random() < 0.1]
  write(folder / "rare" / "ml-100k", rows + rare, 48)
  return folder


def script(folder, flags, data="data"):
  return scripts.run(f"scenarios --data_dir={data} {flags}", folder)


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


def top(params, users, retained, k):
  """int [N, k]: a slow twin of what the users are shown of the items that they have not."""
  scores = np.array(params["user"][users] @ params["item"].T, np.float64)
  scores[np.asarray(retained.to_csr()[users].todense()) > 0] = -np.inf
  return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def test_spam_is_injected_forgotten_whole_and_counted(folder):
  done = script(folder, f"--scenario=spam --share=0.1 --epochs=20 {SMALL} --train.learning_rate=0.02 "
                        "--methods=original,retrain --out=spammed", data="rare")  # fmt: skip
  assert done.returncode == 0, done.stderr
  clean = datasets.load("ml-100k", data_dir=folder / "rare")
  scenario = bandwagon(np.random.default_rng(0), clean, share=0.1)
  train, real = scenario.dataset.train, clean.num_users
  assert train.num_users == real + 6 and (train.user_degrees()[real:] > 20).all()
  fake = train.select(train.user >= real)
  retained = train.select(train.user < real)
  np.testing.assert_array_equal(retained.user * 100 + retained.item, clean.train.user * 100 + clean.train.item)
  cells = {p.parts[-3]: json.loads(p.read_text(encoding="utf-8")) for p in (folder / "spammed").rglob("result.json")}
  assert cells.keys() == {"original", "retrain"}
  for cell in cells.values():
    assert (cell["data_hash"], cell["forget_hash"]) == (train.digest(), fake.digest())
  # Each model again from what it may see; exposure again by hand, of the real users alone.
  config = cells["retrain"]["config"]
  model, how = bprmf(BPRMFConfig(**config["model"])), TrainConfig(**config["train"])
  seen = {"original": train, "retrain": retained}
  fitted = {}
  for method, data in seen.items():
    params, _ = checkpoint.restore(folder / "spammed" / "bprmf" / method / "seed0" / "model")
    fitted[method] = fit(jax.random.key(0), model, data, how, progress=False).params
    for name in ("user", "item"):
      np.testing.assert_allclose(params[name], fitted[method][name], rtol=1e-4, atol=1e-5)
    for k in (10, 20):
      shown = np.isin(top(params, np.arange(real), retained, k), scenario.items).sum(axis=1)
      found = cells[method]["completeness"]
      assert found[f"exposure@{k}"] == pytest.approx((shown > 0).mean(), abs=1 / real)  # ties may fall otherwise
      assert found[f"shown@{k}"] == pytest.approx(shown.mean(), abs=1 / real)
  assert np.abs(fitted["original"]["item"] - fitted["retrain"]["item"]).max() > 0.01  # else the check sees nothing
  # Among 48 items of random pairs exposure need not rise with spam; that it depends on it is all there is to see.
  assert cells["original"]["completeness"]["shown@20"] != cells["retrain"]["completeness"]["shown@20"]
  assert "Exposure@10" in (folder / "spammed" / "table.md").read_text(encoding="utf-8")
  more = script(folder, f"--scenario=spam --share=0.1 --epochs=20 {SMALL} --train.learning_rate=0.02 "
                        "--methods=original --first_seed=1 --out=spammed", data="rare")  # fmt: skip
  assert more.returncode == 0, more.stderr
  cell = json.loads((folder / "spammed" / "bprmf" / "original" / "seed1" / "result.json").read_text(encoding="utf-8"))
  assert (cell["seeds"], cell["forget_hash"]) == ([1], fake.digest())  # another model, the same profiles


@pytest.mark.parametrize(
  ("flags", "words"),
  [("--category=Western", "--category of Drama, Horror, got 'Western'"), ("--category=Horror --seeds=0", "seeds=0")],
)
def test_what_is_not_there_is_said(folder, flags, words):
  done = script(folder, f"--scenario=category --epochs=1 --out=none --quiet {flags}")
  assert done.returncode == 1 and words in done.stderr, done.stderr
