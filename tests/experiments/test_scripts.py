"""The scripts as commands: what they write, what they print, and what they say when something is wrong."""

import concurrent.futures
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import _common, _results
from jaxunlearn import checkpoint, models
from jaxunlearn.data import Interactions, read_pairs, write_lightgcn_text
from jaxunlearn.recipes import recipe
from jaxunlearn.train import TrainConfig, fit
from tests import scripts
from tests.scripts import ROOT

TRAIN = "--train.eval_every=2 --train.batch_size=128 --bprmf.embedding_dim=8"
LIGHTUL = "--lightul.num_epochs=2 --lightul.hidden=8 --lightul.num_preserve=64"
NUM_USERS, NUM_ITEMS = 40, 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder with data/ml-1m/{train,test}.txt and data/forget.txt; the working directory of every command."""
  folder = tmp_path_factory.mktemp("scripts")
  rng = np.random.default_rng(0)
  drawn = rng.permutation(NUM_USERS * NUM_ITEMS)
  sizes = {"ml-1m/train.txt": 500, "ml-1m/test.txt": 100}
  (folder / "data" / "ml-1m").mkdir(parents=True)
  for name, size in sizes.items():
    keys, drawn = np.sort(drawn[:size]), drawn[size:]
    user, item = keys // NUM_ITEMS, keys % NUM_ITEMS
    pairs = Interactions.from_pairs(user, item, num_users=NUM_USERS, num_items=NUM_ITEMS)
    write_lightgcn_text(folder / "data" / name, pairs)
    if "train" in name:
      write_lightgcn_text(folder / "data" / "forget.txt", pairs.select(rng.permutation(size) < 30))
  return folder


@pytest.fixture(scope="module")
def call(folder):
  """Runs "SCRIPT --flag=value …" and returns (exit code, standard output, standard error)."""

  def run(command: str) -> tuple[int, str, str]:
    done = scripts.run(command, folder)
    return done.returncode, done.stdout, done.stderr

  return run


@pytest.fixture(scope="module")
def call_all(call):
  """Several commands at a time: {command: (exit code, standard output, standard error)}."""

  def run(commands) -> dict[str, tuple[int, str, str]]:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      return dict(zip(commands, pool.map(call, commands), strict=True))

  return run


FIT = f"fit --dataset=ml-1m --data_dir=data --out=runs/a --train.num_epochs=4 {TRAIN}"


@pytest.fixture(scope="module")
def fitted(call, folder):
  code, out, err = call(FIT)
  assert code == 0, err
  return folder / "runs" / "a", out


def result_of(path: Path) -> dict:
  return _results.load_results(path / "result.json")[0]


def stamps(path: Path) -> dict[str, int]:
  return {str(file): file.stat().st_mtime_ns for file in path.rglob("result.json")}


def test_fit(fitted):
  path, out = fitted
  result = result_of(path)
  assert result["schema"] == 1 and result["method"] == "original" and result["seeds"] == [0]
  assert (result["dataset"], result["model"], result["forget_hash"]) == ("ml-1m", "bprmf", "")
  assert result["config"]["recipe"] == "tuned" and result["config"]["model"]["embedding_dim"] == 8
  assert 1 <= result["config"]["train"]["num_epochs"] == result["info"]["num_epochs"] <= 4
  assert result["config"]["train"]["learning_rate"] == 2e-3  # the recipe's: what no flag changed
  assert {"ndcg@20", "recall@20", "hr@20", "ndcg@10", "ndcg@50"} <= result["utility"].keys()
  assert all(0 <= value <= 1 for value in result["utility"].values())
  assert result["efficiency"]["fit_seconds"] > 0 and result["completeness"] == {}
  assert result["command"].startswith("python -m experiments.fit --dataset=ml-1m")
  state, metadata = checkpoint.restore(path / "model")
  assert {name: table.shape for name, table in state.items()} == {"user": (NUM_USERS, 8), "item": (NUM_ITEMS, 8)}
  assert metadata["data_hash"] == result["data_hash"] and metadata["train_config"] == result["config"]["train"]
  assert "Original" in out and f"{result['utility']['ndcg@20']:.4f}" in out


def test_fit_again(fitted, call_all):
  path, _ = fitted
  before = stamps(path)
  changed = {f"{FIT} --bprmf.l2=0.5": "config.model.l2 is 0.01 there and 0.5 here", f"{FIT} --seed=3": "seed is 0"}
  done = call_all([FIT, *changed])
  assert done[FIT][0] == 0 and "was there already" in done[FIT][2]
  for command, words in changed.items():
    code, _, err = done[command]
    assert code == 1 and words in err and "--overwrite" in err
  assert stamps(path) == before


def test_unlearn(fitted, call, folder):
  common = "unlearn --run=runs/a --forget=data/forget.txt"
  code, _, err = call(f"{common} --method=retrain --out=runs/retrain --quiet")
  assert (code, err) == (0, "")
  code, out, err = call(f"{common} --method=lightul --reference=runs/retrain --out=runs/lightul {LIGHTUL}")
  assert code == 0, err
  original, retrain, lightul = (result_of(folder / "runs" / name) for name in ("a", "retrain", "lightul"))
  train = read_pairs(folder / "data" / "ml-1m" / "train.txt", num_users=NUM_USERS, num_items=NUM_ITEMS)
  forget = read_pairs(folder / "data" / "forget.txt", num_users=NUM_USERS, num_items=NUM_ITEMS)
  for name, result in (("retrain", retrain), ("lightul", lightul)):
    assert result["method"] == name and result["data_hash"] == original["data_hash"] == train.digest()
    assert result["forget_hash"] == forget.digest()
    assert result["config"]["train"] == original["config"]["train"]
    assert result["efficiency"]["fit_seconds"] == original["efficiency"]["fit_seconds"]
    assert result["efficiency"]["unlearn_seconds"] > 0
    assert 0 <= result["completeness"]["auc"] <= 1 and result["info"]["num_forgotten"] == len(forget)
    state, metadata = checkpoint.restore(folder / "runs" / name / "model")
    pairs = Interactions(
      np.asarray(state["interactions"]["user"]), np.asarray(state["interactions"]["item"]), NUM_USERS, NUM_ITEMS
    )
    assert pairs.digest() == train.without(forget).digest()
    assert metadata["forgotten"] == len(forget) and metadata["served_vectors"] == (name == "lightul")
    assert state["params"]["user"].shape == (NUM_USERS, 8)
  assert lightul["config"]["lightul"]["hidden"] == 8 and retrain["config"]["lightul"] is None
  assert lightul["completeness"]["auc_retrain"] == retrain["completeness"]["auc"]
  ratio = retrain["efficiency"]["unlearn_seconds"] / lightul["efficiency"]["unlearn_seconds"]
  assert lightul["efficiency"]["retrain_ratio"] == pytest.approx(ratio)
  assert "LightUL" in out and "|AUC − Retrain|" in out


SCRIPTS = {
  "fit": ("dataset", "model", "train.num_epochs", "lightgcn.num_layers", "overwrite"),
  "unlearn": ("run", "method", "forget", "by", "lightul.alpha"),
  "compare": (
    "forget",
    "pairs",
    "seeds",
    "shard_epochs",
    "shard_recipe",
    "shards.wmf.l2",
    "shards.train.batch_size",
    "first_seed",
    "wmf.l2",
    "lightul.alpha",
    "receraser.aggregate.train.num_epochs",
  ),
  "shards": ("dataset", "model", "partitions", "aggregations", "num_shards", "seeds", "shard_epochs", "overwrite"),
  "report": ("title", "curves"),
  "demo": ("seeds", "ratio", "synthetic.num_users", "train.num_epochs", "lightul.alpha", "overwrite"),
}


def test_a_request_after_another(fitted, call, folder):
  """What the first one left is what the second one starts from, whichever method it was; Retrain is exact after it."""
  train = read_pairs(folder / "data" / "ml-1m" / "train.txt", num_users=NUM_USERS, num_items=NUM_ITEMS)
  steps = {
    "first": f"unlearn --run=runs/a --method=lightul --pairs=30 --seed=1 {LIGHTUL} --out=runs/first",
    "second": f"unlearn --run=runs/first --method=lightul --pairs=25 --seed=2 {LIGHTUL} --out=runs/second",
    "retrained": "unlearn --run=runs/first --method=retrain --pairs=25 --seed=2 --out=runs/retrained",
    "third": "unlearn --run=runs/retrained --method=gradient-ascent --pairs=20 --seed=3 --out=runs/third",
  }
  for command in steps.values():
    code, _, err = call(f"{command} --quiet")
    assert (code, err) == (0, ""), command
  found = {name: checkpoint.restore(folder / "runs" / name / "model") for name in steps}
  left = {
    name: Interactions(*(np.asarray(state["interactions"][side]) for side in ("user", "item")), NUM_USERS, NUM_ITEMS)
    for name, (state, _) in found.items()
  }
  forgotten = [_common.draw_pairs(np.random.default_rng(1), train, 30)]
  forgotten.append(_common.draw_pairs(np.random.default_rng(2), train.without(forgotten[0]), 25))
  assert left["first"].digest() == train.without(forgotten[0]).digest()
  assert left["second"].digest() == left["retrained"].digest() == left["first"].without(forgotten[1]).digest()
  assert len(left["third"]) == len(train) - 75
  assert [metadata["forgotten"] for _, metadata in found.values()] == [30, 55, 55, 75]
  assert result_of(folder / "runs" / "second")["data_hash"] == left["first"].digest()
  model = models.bprmf(models.BPRMFConfig(**found["retrained"][1]["model_config"]))
  exact = fit(jax.random.key(0), model, left["retrained"], TrainConfig(**found["retrained"][1]["train_config"]))
  assert np.array_equal(found["retrained"][0]["params"]["user"], exact.params["user"])
  code, _, err = call("unlearn --run=runs/first --method=finetune --pairs=25 --out=runs/never")
  assert code == 1 and "no loss for finetune; use lightul" in err


def test_help_lists_every_flag_with_a_comment(call_all):
  done = call_all([f"{script} --help" for script in SCRIPTS])
  for script, names in SCRIPTS.items():
    code, out, err = done[f"{script} --help"]
    assert (code, err) == (0, "")
    assert f"python -m experiments.{script}" in out
    listed = dict(re.findall(r"^  --(?:\[no\])?([\w.]+): (.*)$", out, re.MULTILINE))
    assert {*names, "out", "quiet", "debug"} <= listed.keys()
    documented = re.findall(
      rf"experiments\.{script}((?: +--\S+| \\\\?\n)+)", (ROOT / "README.md").read_text("utf-8") + out
    )
    named = {flag for command in documented for flag in re.findall(r"--([\w.]+)", command)}
    assert named <= listed.keys() | {"help"}, f"{script}: flags that are documented and do not exist"
    bare = [name for name, text in listed.items() if not text or re.search(r" of \w+Config$", text)]
    assert not bare, f"{script}: flags without a comment: {bare}"


def test_typos_are_answered_with_the_flag_that_was_meant(call_all):
  meant = {
    "fit --num_epochs=3": "--train.num_epochs",
    "demo --num_users=9": "--synthetic.num_users",
  }
  for command, (code, out, err) in call_all(meant).items():
    assert code == 2 and out == "" and f"Did you mean {meant[command]}?" in err, (command, err)
    assert len(err.strip().splitlines()) == 1


def test_wrong_input_is_one_line(fitted, call_all, folder):
  path, _ = fitted
  state, metadata = checkpoint.restore(path / "model")
  wider = {"user": np.zeros((NUM_USERS, 9), np.float32), "item": np.zeros((NUM_ITEMS, 9), np.float32)}
  checkpoint.save(folder / "runs" / "wider" / "model", wider, metadata)
  train = read_pairs(folder / "data" / "ml-1m" / "train.txt", num_users=NUM_USERS, num_items=NUM_ITEMS)
  absent = next(item for item in range(NUM_ITEMS) if not ((train.user == 7) & (train.item == item)).any())
  (folder / "absent.txt").write_text(f"7 {absent}\n")
  (folder / "malformed.txt").write_text("0 1\n3 four\n")
  (folder / "file").write_text("in the way")
  (folder / "runs" / "damaged").mkdir()
  (folder / "runs" / "damaged" / "identity.json").write_text("")
  unlearn = "unlearn --out=runs/never"
  wrong = {
    "fit --dataset=ml-1n --out=runs/never": ["Expected name='ml-1n'", "'ml-1m'"],
    "fit --dataset=ml-1m --data_dir=data --out=file/deeper": ["Cannot write results to file/deeper"],
    "fit --dataset=yelp2018 --data_dir=data --nodownload --out=runs/never": ["Found no yelp2018", "data/yelp2018"],
    "fit --train.num_epochs=0 --out=runs/never": ["num_epochs=0"],
    "compare --epochs=3 --train.num_epochs=4 --out=runs/never": ["no --train.num_epochs=4", "--epochs=3"],
    "audit --train.num_epochs=4 --out=runs/never": ["--train.num_epochs=4", "--epochs=60", "set --epochs"],
    f"{unlearn} --run=runs/a --forget=data/forget.txt --pairs=3 --by=user": ["--forget alone", "--pairs, --by too"],
    f"{unlearn} --run=runs/a --pairs=3 --ratio=0.1": ["--pairs alone", "--ratio too"],
    f"{unlearn} --run=runs/nowhere": ["--run=runs/nowhere", "experiments.fit or experiments.unlearn finished"],
    f"{unlearn} --run=runs/a --forget=absent.txt": [
      "--forget=absent.txt",
      "1 of its 1 are not there",
      f"(7, {absent})",
    ],
    f"{unlearn} --run=runs/a --method=retrain --rownewton.num_rounds=4": ["--rownewton.num_rounds", "another model or"],
    f"{unlearn} --run=runs/a --method=retrain --objective=paper": ["no --objective=paper for --method=retrain"],
    "fit --model=bprmf --wmf.embedding_dim=8 --out=runs/never": ["--wmf.embedding_dim", "another model or method"],
    "fit --dataset=ml-1m --data_dir=data --out=runs/wider": ["runs/wider holds model of another kind of run"],
    "fit --dataset=ml-1m --data_dir=data --out=runs/damaged": ["runs/damaged/identity.json is damaged", "--overwrite"],
    **{
      f"{script} --dataset=ml-1m --data_dir=data --out=runs/a": ["runs/a holds a run of another script"]
      for script in ("stream", "audit", "calibrate")
    },
    f"{unlearn} --run=runs/a --forget=malformed.txt": ["malformed.txt, line 2", "four"],
    f"{unlearn} --run=runs/wider --forget=data/forget.txt": ["float32[40, 9]", "expected float32[40, 8]"],
    f"{unlearn} --run=runs/a --pairs=500": ["--pairs=500 in [1, 499]"],
    "shards --dataset=ml-1m --data_dir=data --sweep=all --out=runs/never": ["sweep='all'", "'inbp'"],
    "shards --dataset=ml-1m --data_dir=data --num_shards=0 --out=runs/never": ["num_shards=0"],
    "unlearn --run=runs/a --out=runs/a": ["another folder than --run"],
    "compare --methods=original,retain --out=runs/never": ["'retain'", "'retrain'"],
    "compare --recipe=lightul --methods=original,rownewton --out=runs/never": ["convex loss", "'double_sigmoid'"],
    "compare --models=wmf --methods=original,sisa --shard_recipe=lightul --out=runs/never": ["'lightul'", "'wmf'"],
  }
  for command, (code, out, err) in call_all(wrong).items():
    assert (code, out) == (1, ""), (command, err)
    assert len(err.strip().splitlines()) == 1 and err.startswith("Error: ") and "Traceback" not in err, err
    for words in wrong[command]:
      assert words in err, (command, err)
  assert not list((folder / "runs").glob("never/**/result.json"))


def test_compare_resumes_and_refuses_other_settings(fitted, call, call_all, folder):
  command = (
    "compare --dataset=ml-1m --data_dir=data --methods=lightul,original,retrain --seeds=1 --epochs=2 "
    f"--forget=data/forget.txt --out=runs/compare {TRAIN} {LIGHTUL}"
  )
  code, out, err = call(command)
  assert code == 0, err
  rows = [line.split()[0] for line in out.strip().splitlines()]
  assert rows == ["method", "Original", "Retrain", "LightUL"]
  written = folder / "runs" / "compare"
  cells = stamps(written)
  assert len(cells) == 3 and (written / "table.md").read_text().count("\n") == 5
  lightul, retrain = (result_of(written / "bprmf" / name / "seed0") for name in ("lightul[preserve]", "retrain"))
  assert lightul["completeness"]["auc_retrain"] == retrain["completeness"]["auc"]  # Retrain ran first
  assert lightul["config"]["train"]["num_epochs"] == 2

  changed = {
    f"{command} --lightul.alpha=2": "config.lightul.alpha is 0.5 there and 2.0 here",
    f"{command} --forget= --ratio=0.1": "forget_hash is",
  }
  done = call_all([command, *changed])
  assert done[command][:2] == (0, out)
  for other, words in changed.items():
    code, _, err = done[other]
    assert code == 1 and words in err and "--overwrite" in err and "--out" in err, (other, err)
  assert stamps(written) == cells


def test_one_pair_is_drawn(fitted, call, folder):
  code, _, err = call(
    "unlearn --run=runs/a --method=finetune --finetune.num_epochs=1 --pairs=1 --seed=4 --out=runs/one"
  )
  assert code == 0 and "No AUC" in err, err
  train = read_pairs(folder / "data" / "ml-1m" / "train.txt", num_users=NUM_USERS, num_items=NUM_ITEMS)
  result = result_of(folder / "runs" / "one")
  assert result["info"]["num_forgotten"] == 1 and result["info"]["request_seed"] == 4
  assert result["completeness"] == {}  # an AUC of one pair would be 0 or 1
  assert result["forget_hash"] == _common.draw_pairs(np.random.default_rng(4), train, 1).digest()
  assert result["config"]["method"]["num_epochs"] == 1
  again = "unlearn --run=runs/a --method=finetune --pairs=1 --seed=4 --out=runs/one"
  code, _, err = call(f"{again} --finetune.num_epochs=2")
  assert code == 1 and "num_epochs is 1 there and 2 here" in err and "--overwrite" in err
  assert result_of(folder / "runs" / "one")["config"]["method"]["num_epochs"] == 1
  same = "unlearn --run=runs/a --method=finetune --finetune.num_epochs=1 --forget=one.txt --out=runs/one"
  one = _common.draw_pairs(np.random.default_rng(4), train, 1)
  (folder / "one.txt").write_text(f"{one.user[0]} {one.item[0]}\n")
  code, _, err = call(f"{same} --seed=5")
  assert code == 1 and "info.request_seed is 4 there and 5 here" in err
  code, _, err = call(f"{again} --finetune.num_epochs=2 --overwrite --quiet")
  assert (code, err) == (0, "") and result_of(folder / "runs" / "one")["config"]["method"]["num_epochs"] == 2


def test_compare_trains_the_models_that_methods_have_of_their_own(call, call_all, folder):
  methods = "original,retrain,sisa,receraser,laser,finetune"
  command = (
    f"compare --dataset=ml-1m --data_dir=data --methods={methods} --first_seed=2 --seeds=1 --epochs=2 "
    f"--forget=data/forget.txt --out=runs/family {TRAIN} --sisa.num_shards=2 --receraser.num_shards=2 "
    "--laser.num_groups=2 --shard_epochs=1 --shard_recipe=user-shards --shards.bprmf.embedding_dim=3 "
    "--receraser.aggregate.train.num_epochs=1 --finetune.num_epochs=1"
  )
  code, out, err = call(command)
  assert code == 0, err
  written = folder / "runs" / "family" / "bprmf"
  results = {method: result_of(written / method / "seed2") for method in methods.split(",")}
  assert all(result["seeds"] == [2] for result in results.values())
  shown = [re.split(r"  +", line)[0] for line in out.strip().splitlines()]
  assert shown == ["method", "Original", "Retrain", "SISA", "RecEraser", "LASER", "Fine-tune"]
  retrained = results["retrain"]["completeness"]["auc"]
  for method in ("sisa", "receraser", "laser"):
    result = results[method]
    assert result["config"]["shard_train"]["num_epochs"] == 1 and result["completeness"]["auc_retrain"] == retrained
    assert result["config"]["shard_model"]["l2"] == recipe("bprmf", "user-shards").model_config.l2
    assert result["config"]["shard_model"]["embedding_dim"] == 3
    assert result["efficiency"]["fit_seconds"] > 0 and result["efficiency"]["unlearn_seconds"] > 0
    assert 0 < result["info"]["fit_utility"]["ndcg@20"] <= 1 and 0 <= result["info"]["fit_completeness"]["auc"] <= 1
    assert result["info"]["num_forgotten"] == 30
  assert results["sisa"]["config"]["method"]["num_shards"] == 2 == results["sisa"]["info"]["num_shards_retrained"]
  assert results["receraser"]["config"]["method"]["aggregate"]["train"]["num_epochs"] == 1
  assert results["finetune"]["config"]["method"]["num_epochs"] == 1
  assert "shard_train" not in results["finetune"]["config"]

  cells = stamps(written)
  assert len(cells) == 6
  changed = {
    f"{command} --receraser.num_shards=3": "config.method.num_shards is 2 there and 3 here",
    f"{command} --shard_epochs=2": "config.shard_train.num_epochs is 1 there and 2 here",
  }
  done = call_all([command, *changed])
  assert done[command][:2] == (0, out)
  for other, words in changed.items():
    code, _, err = done[other]
    assert code == 1 and words in err and "--overwrite" in err, (other, err)
  assert stamps(written) == cells


def test_shards(call, call_all, folder):
  command = (
    "shards --dataset=ml-1m --data_dir=data --partitions=random,ubp --aggregations=mean,attention "
    "--num_shards=2,10 --sweep=random --seeds=1 --shard_epochs=1 --out=runs/shards"
  )
  code, out, err = call(command)
  assert code == 0, err
  written = folder / "runs" / "shards" / "bprmf"
  kinds = ("attention", "mean")
  names = [f"{part}-{kind}" for part in ("random-10", "random-2", "ubp-10") for kind in kinds]
  assert [line.split()[0] for line in out.strip().splitlines()[1:]] == names
  cells = stamps(written)
  assert len(cells) == 6
  result = result_of(written / "ubp-10" / "attention" / "seed0")
  assert (result["config"]["partition"], result["config"]["num_shards"]) == ("ubp", 10)
  assert result["config"]["train"]["num_epochs"] == 1 and result["config"]["aggregate"]["kind"] == "attention"
  seconds = result["info"]["shard_seconds"] + result["info"]["aggregate_seconds"]
  assert result["efficiency"]["unlearn_seconds"] == pytest.approx(seconds) and result["info"]["balance"] >= 1
  plots = {plot["title"]: plot for plot in json.loads((written / "curves.json").read_text("utf-8"))}
  by_partition = plots["Recall@20 by partition and aggregation, 10 shards"]["series"]
  assert [line["name"] for line in by_partition] == ["mean", "attention"]
  assert by_partition[0]["sd"] == [None, None]  # of one seed; NaN is no JSON
  assert by_partition[1]["x"] == ["random", "ubp"] and by_partition[1]["y"][1] == result["utility"]["recall@20"]
  assert plots["seconds a request by the number of shards, random"]["series"][0]["x"] == [2, 10]
  page = (written / "index.html").read_text("utf-8")
  assert all(title in page for title in plots)

  other = f"{command} --shard_epochs=2"
  done = call_all([command, other])
  assert done[command][:2] == (0, out) and stamps(written) == cells
  code, _, err = done[other]
  assert code == 1 and "config.train.num_epochs is 1 there and 2 here" in err and "--overwrite" in err

  code, _, err = call(f"{command} --partitions=random --aggregations=mean --num_shards=10 --first_seed=1")
  assert code == 0, err
  assert stamps(written).keys() - cells.keys() == {str(written / "random-10" / "mean" / "seed1" / "result.json")}
  assert result_of(written / "random-10" / "mean" / "seed1")["seeds"] == [1]


def test_demo(call, folder):
  pytest.importorskip("matplotlib")
  command = (
    "demo --seeds=1 --epochs=2 --out=runs/demo --ratio=0.05 --synthetic.num_users=60 --synthetic.num_items=40 "
    f"--synthetic.num_pairs=900 {TRAIN} {LIGHTUL}"
  )
  code, out, err = call(command)
  assert code == 0, err
  rows = [line.split()[0] for line in out.splitlines() if re.match(r"\S+ +0\.\d{4}", line)]
  assert rows == ["Original", "Retrain", "LightUL-WM", "LightUL"]
  for words in ("NDCG@20 of the oracle", "The target is Retrain's value", "(unknown)", "(forgotten)", "(known)"):
    assert words in out
  assert out.count("the most popular\n") == 2 and out.count("by taste\n") == 1
  written = folder / "runs" / "demo"
  assert (written / "plot.png").read_bytes().startswith(b"\x89PNG") and (written / "plot.svg").exists()
  assert "| Retrain |" in (written / "table.md").read_text()
  assert len(stamps(written)) == 4
  assert json.loads((written / "bprmf" / "retrain" / "seed0" / "result.json").read_text())["dataset"] == "synthetic"


def test_jaxs_own_variables_of_the_cache_come_before_ours(monkeypatch, tmp_path):
  """`conftest` sets both; a user's, too, are left as they are."""
  names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
  before = [getattr(jax.config, name) for name in names]
  monkeypatch.setenv("JAXUNLEARN_CACHE", str(tmp_path))
  try:
    _common.use_compilation_cache()
    assert [getattr(jax.config, name) for name in names] == before
    for name in names:
      monkeypatch.delenv(name.upper())
    _common.use_compilation_cache()
    assert [getattr(jax.config, name) for name in names] == [str(tmp_path / "xla"), 0.1]
  finally:
    for name, value in zip(names, before, strict=True):
      jax.config.update(name, value)
