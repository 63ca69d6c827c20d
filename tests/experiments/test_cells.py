"""Cells and the identity of a run: what is resumed, what is refused, what is removed."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest

from experiments import _cells, _common, _methods, _results
from experiments._cells import Cells
from experiments._methods import CONFIGS, settings, variant
from experiments._tables import TABLES
from jaxunlearn import checkpoint
from jaxunlearn.base import Embeddings, Scorer, inner_product_score
from jaxunlearn.data import SyntheticConfig, generate, sample_interactions
from jaxunlearn.models import BPRMFConfig
from jaxunlearn.recipes import Recipe, recipe
from jaxunlearn.train import TrainConfig

DATASET = generate(SyntheticConfig(num_users=30, num_items=20, num_pairs=240, num_clusters=2)).dataset
FORGET = sample_interactions(np.random.default_rng(0), DATASET.train, 0.1)
MEASURE = _common.Measure(DATASET, FORGET)
TRAIN = TrainConfig(num_epochs=4, eval_every=2, batch_size=64)
MODEL = BPRMFConfig(embedding_dim=4)


def make(folder, *, train=TRAIN, model=MODEL, forget=FORGET, recipe_name="tuned", epochs=2, **options) -> Cells:
  measure = MEASURE if forget is FORGET else _common.Measure(DATASET, forget)
  return Cells(
    folder,
    "bprmf",
    Recipe(model, train),
    recipe_name,
    DATASET,
    forget,
    measure,
    epochs=epochs,
    progress=False,
    **options,
  )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cells")
  cells = make(folder)
  for method in ("retrain", "original"):
    cells.run(method, 0)
  return folder


def copy(done, tmp_path):
  return shutil.copytree(done, tmp_path / "copy")


def edit(path, change):
  result = json.loads(path.read_text())
  change(result)
  path.write_text(json.dumps(result))


def test_utility_is_told_apart_by_activity():
  """NDCG@20 of the most active twentieth and of the others: weighed by their numbers, the mean of all."""
  vectors = (np.random.default_rng(2).normal(size=(n, 4)).astype(np.float32) for n in (30, 20))
  scorer = Scorer(None, Embeddings(*vectors), inner_product_score, True)
  utility, _ = MEASURE(scorer)
  users, degree = MEASURE.ranking.users, DATASET.train.user_degrees()
  active = set(sorted(users.tolist(), key=lambda user: -degree[user])[: round(0.05 * len(users))])
  of_user = dict(zip(users.tolist(), MEASURE.ranking(scorer, per_user=True).per_user["ndcg@20"].tolist(), strict=True))
  assert utility["active_ndcg@20"] == pytest.approx(np.mean([of_user[user] for user in active]))
  share = len(active) / len(users)
  both = share * utility["active_ndcg@20"] + (1 - share) * utility["inactive_ndcg@20"]
  assert both == pytest.approx(utility["ndcg@20"]) and min(degree[list(active)]) >= max(
    degree[[user for user in users if user not in active]]
  )


def test_what_is_written(done):
  result = _results.load_results(done / "retrain")[0]
  assert result["config"]["train"] == _results.plain(dataclasses.replace(TRAIN, num_epochs=2))
  assert result["config"]["model"] == _results.plain(MODEL) and result["config"]["lightul"] is None
  assert (result["data_hash"], result["forget_hash"]) == (DATASET.train.digest(), FORGET.digest())
  assert (done / "original" / "seed0" / "result.json").exists()  # Retrain needs it


def test_the_same_settings_resume(done):
  before = {path: path.stat().st_mtime_ns for path in done.rglob("result.json")}
  cells = make(done, train=dataclasses.replace(TRAIN, checkpoint_every=3))  # changes nothing that is found
  cells.run("retrain", 0)
  assert cells.num_found == 1
  assert {path: path.stat().st_mtime_ns for path in done.rglob("result.json")} == before


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (
      {"train": dataclasses.replace(TRAIN, learning_rate=0.5)},
      "config.train.learning_rate is 0.001 there and 0.5 here",
    ),
    ({"model": dataclasses.replace(MODEL, l2=0.5)}, "config.model.l2 is 0.01 there and 0.5 here"),
    ({"epochs": 3}, "config.train.num_epochs is 2 there and 3 here"),
    ({"recipe_name": "lightul"}, "config.recipe is tuned there and lightul here"),
    ({"forget": FORGET.select(np.arange(len(FORGET)) > 0)}, "forget_hash is"),
  ],
)
def test_other_settings_are_refused(done, changes, words):
  with pytest.raises(ValueError, match="--overwrite") as error:
    make(done, **changes)
  assert words in str(error.value) and str(done) in str(error.value)


def test_results_without_an_identity_file_stay_valid(done, tmp_path):
  folder = copy(done, tmp_path)
  (folder / "identity.json").unlink()
  edit(folder / "retrain" / "seed0" / "result.json", lambda r: r["config"].update(lightul={"alpha": 9}))
  make(folder).run("retrain", 0)
  (folder / "identity.json").unlink()
  with pytest.raises(ValueError, match="retrain/seed0 holds|original/seed0 holds"):
    make(folder, epochs=3)
  assert not (folder / "identity.json").exists()


def test_a_setting_newer_than_the_result_counts_as_its_default(done, tmp_path):
  folder = copy(done, tmp_path)
  for path in [folder / "identity.json", *folder.rglob("result.json")]:
    edit(path, lambda r: r["config"]["train"].pop("num_negatives"))
  make(folder)
  with pytest.raises(ValueError, match="num_negatives is 1 there and 2 here"):
    make(folder, train=dataclasses.replace(TRAIN, num_negatives=2))


def test_overwrite_removes_only_what_a_comparison_writes(done, tmp_path):
  folder = copy(done, tmp_path)
  (folder / "mine.txt").write_text("kept")
  cells = make(folder, epochs=1, overwrite=True)
  assert not list(folder.rglob("result.json")) and (folder / "mine.txt").exists()
  cells.run("original", 0)
  assert _results.load_results(folder)[0]["config"]["train"]["num_epochs"] == 1


def test_epochs_are_found_once(tmp_path, monkeypatch):
  first = make(tmp_path, epochs=0)
  assert first.config.num_epochs in (2, 4)
  monkeypatch.setattr(_common, "select_epochs", None)
  assert make(tmp_path, epochs=0).config == first.config
  with pytest.raises(ValueError, match="select holds results of another run: config.model.l2"):
    make(tmp_path, epochs=0, model=dataclasses.replace(MODEL, l2=0.5))


def test_lightul_settings_are_those_of_the_cell(done, tmp_path):
  folder, small = copy(done, tmp_path), {"num_epochs": 1, "hidden": 4, "num_preserve": 16}
  make(folder, lightul=small).run("lightul-wm", 0)
  result = _results.load_results(folder / "lightul-wm[preserve]")[0]
  assert result["efficiency"]["retrain_ratio"] > 0 and result["config"]["lightul"]["hidden"] == 4
  changed = make(folder, lightul={**small, "alpha": 2.0})  # no base setting: only the cell refuses
  changed.run("retrain", 0)
  with pytest.raises(ValueError, match=r"seed0 holds .* config.lightul.alpha is 0.5 there and 2.0 here"):
    changed.run("lightul-wm", 0)


OWN = {
  "sisa": {"num_shards": 2},
  "receraser": {"num_shards": 2, "partition": "ubp", "aggregate.train.num_epochs": 1},
  "grapheraser": {"num_shards": 2, "aggregate.train.num_epochs": 1},
}


def test_models_of_their_own(done, tmp_path, monkeypatch):
  made = []

  def vectors(key, interactions):
    made.append(interactions.digest())
    rng = np.random.default_rng(0)
    return Embeddings(*(rng.normal(size=(n, 4)).astype(np.float32) for n in (30, 20)))

  monkeypatch.setattr(_cells, "pretrained", vectors)
  folder = copy(done, tmp_path)
  cells = make(folder, changes=OWN, shard_epochs=1)
  for method in OWN:
    cells.run(method, 0)
  assert made == [DATASET.train.digest()]  # once for both methods that partition by them
  found = {method: _results.load_results(folder / method)[0] for method in OWN}
  retrained = _results.load_results(folder / "retrain")[0]
  for method, result in found.items():
    assert result["config"]["shard_model"] == _results.plain(recipe("bprmf", "shards").model_config), method
    assert result["config"]["shard_train"]["num_epochs"] == 1 and result["config"]["method"]["num_shards"] == 2
    assert result["config"]["model"] == retrained["config"]["model"]  # the base model's, which the cells have in common
    assert result["completeness"]["auc_retrain"] == retrained["completeness"]["auc"]
    seconds = result["efficiency"]
    assert seconds["retrain_ratio"] == retrained["efficiency"]["unlearn_seconds"] / seconds["unlearn_seconds"]
    assert seconds["fit_seconds"] > 0 and result["info"]["num_forgotten"] == len(FORGET)
    assert result["info"]["fit_utility"].keys() == result["utility"].keys()
  before = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
  again = make(folder, changes=OWN, shard_epochs=1)
  for method in OWN:
    again.run(method, 0)
  assert again.num_found == 3 and {p: p.stat().st_mtime_ns for p in folder.rglob("result.json")} == before
  with pytest.raises(ValueError, match=r"sisa/seed0 holds .* config.method.num_shards is 2 there and 3 here"):
    make(folder, changes={"sisa": {"num_shards": 3}}, shard_epochs=1).run("sisa", 0)
  with pytest.raises(ValueError, match=r"config.shard_train.num_epochs is 1 there and \d+ here"):
    make(folder, changes=OWN).run("sisa", 0)
  edit(folder / "sisa" / "seed0" / "result.json", lambda r: r["config"]["method"].pop("shared_positives"))
  again.run("sisa", 0)  # a field newer than the result counts as its default
  shared = {**OWN, "sisa": {**OWN["sisa"], "shared_positives": True}}
  with pytest.raises(ValueError, match="shared_positives is false there and true here"):
    make(folder, changes=shared, shard_epochs=1).run("sisa", 0)
  make(folder, changes=OWN, shard_epochs=1, overwrite=True)
  assert not (folder / "vectors" / "seed0").exists()


def special():
  """(model, method) of the tables, one for each way of their own to put submodels together or to propagate."""
  found = {}
  for part in (part for table in TABLES.values() for part in table.parts.values()):
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in part.flags)
    for method in flags.get("methods", "").split(","):
      if way := re.search(r"propagate_last|transfer|graph=", method):
        found[way[0]] = flags["models"], method
  return sorted(found.values())


@pytest.mark.parametrize(("model", "method"), special())
def test_what_the_tables_run_is_served_and_asked(model, method):
  """A request is served once before it is timed, with settings of its own: they have to be ones that exist."""
  name, _, own = variant(method)
  chosen = settings(name, model, TRAIN, {**own, "num_groups" if name == "laser" else "num_shards": 2}, shard_epochs=1)
  random = np.random.default_rng(0)
  vectors = Embeddings(*(random.normal(size=(n, 4)).astype(np.float32) for n in (30, 20)))
  made = _methods.run_own(
    jax.random.key(0), name, model, chosen, DATASET.train, FORGET, MEASURE, vectors=lambda *_: vectors, progress=False
  )
  assert made.outcome.info["num_forgotten"] == len(FORGET) and 0 <= made.outcome.utility["ndcg@20"] <= 1


def test_settings():
  assert settings("retrain", "bprmf", TRAIN, {}) == {}
  for model in ("bprmf", "wmf"):
    shards = recipe(model, "shards")
    chosen = settings("receraser", model, TRAIN, {})
    assert (chosen["shard_model"], chosen["shard_train"]) == (shards.model_config, shards.train_config)
    assert chosen["method"].aggregate.train == shards.aggregate_train
    changes = {"num_shards": 4, "aggregate.train.num_epochs": 3, "aggregate.l2": 0.5}
    changed = settings("receraser", model, TRAIN, changes, shard_epochs=2)
    assert changed["shard_train"] == dataclasses.replace(shards.train_config, num_epochs=2)
    train = dataclasses.replace(shards.aggregate_train, num_epochs=3)  # the rest stays the recipe's
    aggregate = dataclasses.replace(chosen["method"].aggregate, train=train, l2=0.5)
    assert changed["method"] == dataclasses.replace(chosen["method"], num_shards=4, aggregate=aggregate)
  for model, weight in (("bprmf", 1.25), ("wmf", 2.0)):  # shards of whole users have recipes of their own
    shards, chosen = recipe(model, "user-shards"), settings("receraser-ubp", model, TRAIN, {})
    assert (chosen["shard_model"], chosen["shard_train"]) == (shards.model_config, shards.train_config)
    aggregate = chosen["method"].aggregate
    assert (aggregate.kind, aggregate.mean_weight, aggregate.train) == ("combined", weight, shards.aggregate_train)
  with pytest.raises(ValueError, match="bprmf, wmf, lightgcn"):
    settings("receraser-ubp", "neumf", TRAIN, {})
  shards = recipe("bprmf", "lightul")
  for method in ("receraser-ubp", "laser"):  # another recipe for shards, on request; it names no aggregator
    chosen = settings(method, "bprmf", TRAIN, {}, shard_epochs=7, shard_recipe="lightul")
    assert chosen["shard_model"] == shards.model_config
    assert chosen["shard_train"] == dataclasses.replace(shards.train_config, num_epochs=7)
    assert chosen["method"] == CONFIGS[method]
  given = {"train.learning_rate": 0.5, "train.num_epochs": 9, "bprmf.l2": 0.25, "wmf.l2": 0.125}
  chosen = settings("sisa", "bprmf", TRAIN, {}, shard_changes=given)  # single values, those of other models aside
  shards = recipe("bprmf", "shards")
  assert chosen["shard_model"] == dataclasses.replace(shards.model_config, l2=0.25)
  assert chosen["shard_train"] == dataclasses.replace(shards.train_config, learning_rate=0.5, num_epochs=9)
  assert settings("sisa", "bprmf", TRAIN, {}, shard_epochs=2, shard_changes=given)["shard_train"].num_epochs == 2
  with pytest.raises(ValueError, match="l2"):
    settings("sisa", "bprmf", TRAIN, {}, shard_changes={"bprmf.l2": -1.0})
  assert settings("laser", "bprmf", TRAIN, {"num_groups": 2})["method"].num_groups == 2
  train = dataclasses.replace(TRAIN, user_weight_power=0.25)
  assert settings("ifru", "bprmf", train, {})["method"].user_weight_power == 0.25
  train = dataclasses.replace(TRAIN, num_negatives=3)
  for method in ("ifru", "gradient-ascent"):  # NeuMF's loss weighs a positive against so many, BPR's is a mean
    for model, num_negatives in (("neumf", 3), ("bprmf", 1)):
      assert settings(method, model, train, {})["method"].num_negatives == num_negatives
  assert settings("gradient-ascent", "neumf", train, {"num_negatives": 2})["method"].num_negatives == 2
  assert settings("ifru", "bprmf", train, {"user_weight_power": 0.0})["method"].user_weight_power == 0.0
  with pytest.raises(ValueError, match="num_groups"):
    settings("laser", "bprmf", TRAIN, {"num_groups": 0})


def test_variants_of_a_method(done, tmp_path):
  cells = make(copy(done, tmp_path))
  for method in ("l2unrank", "l2unrank[hops=2+step=0.5]", "lightul[phantom_ratio=0.1+num_epochs=2]"):
    cells.run(method, 0)
  found = {
    path.parent.parent.name: _results.load_results(path)[0] for path in cells.folder.glob("l*/seed0/result.json")
  }
  changed = found["l2unrank[hops=2+step=0.5]"]
  assert changed["method"] == "l2unrank[hops=2+step=0.5]" and changed["config"]["method"]["hops"] == 2
  assert changed["config"]["method"]["step"] == 0.5 != found["l2unrank"]["config"]["method"]["step"]
  assert found["l2unrank"]["config"]["method"]["hops"] == 0
  lightul = found["lightul[preserve+phantom_ratio=0.1+num_epochs=2]"]
  assert lightul["config"]["lightul"]["phantom_ratio"] == 0.1 and lightul["utility"]["ndcg@20_unwhitened"] > 0
  assert variant("retrain") == ("retrain", "", {})
  text = "num_shards=3+aggregate.mask_absent=False+aggregate.train.num_epochs=7"
  changes = variant(f"receraser[{text}]")[2]
  assert changes == {"num_shards": 3, "aggregate.mask_absent": False, "aggregate.train.num_epochs": 7}
  aggregate = settings("receraser", "bprmf", TRAIN, changes)["method"].aggregate
  assert not aggregate.mask_absent and aggregate.train.num_epochs == 7 and aggregate.kind == "attention"


@pytest.mark.parametrize(
  "text, words",
  [
    ("l2unrank[hop=2]", "'hop=2'"), ("l2unrank[hops=2", "METHOD"), ("retrain[x=1]", "METHOD"), ("ifru[]", "''"),
    ("l2unrank[hops=two]", "expected int"), ("l2unrank[hops=1+hops=2]", "each once"), ("nothing[x=1]", "methods"),
    ("lightul[objective=paper]", "--objectives"), ("receraser[aggregate=mean]", r"aggregate\.kind"),
  ],
)  # fmt: skip
def test_what_is_no_variant(text, words):
  with pytest.raises(ValueError, match=words):
    variant(text)


def test_drawn_pairs():
  data = DATASET.train
  one = _common.draw_pairs(np.random.default_rng(0), data, 1)
  assert len(one) == 1 and data.contains(one).all()
  assert len(_common.draw_pairs(np.random.default_rng(0), data, len(data) - 1)) == len(data) - 1
  for count in (0, len(data)):
    with pytest.raises(ValueError, match=f"--pairs={count} "):
      _common.draw_pairs(np.random.default_rng(0), data, count)


def test_vectors_are_trained_once(tmp_path):
  made = []

  def vectors():
    made.append(1)
    return Embeddings(np.arange(6.0, dtype=np.float32).reshape(3, 2), np.ones((2, 2), np.float32))

  first, again = (_common.cached_vectors(tmp_path / "v", vectors) for _ in range(2))
  assert made == [1] and isinstance(again, Embeddings)
  for a, b, c in zip(first, again, vectors(), strict=True):
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, c)


def test_a_resumed_fit_has_no_seconds(tmp_path):
  import jax

  from jaxunlearn.models import bprmf

  def fit(epochs):
    config = dataclasses.replace(TRAIN, num_epochs=epochs)
    return _common.timed_fit(jax.random.key(0), bprmf(MODEL), DATASET.train, config, folder=tmp_path, progress=False)

  assert fit(2).seconds > 0
  assert np.isnan(fit(2).seconds)


def test_a_long_retrain_resumes_and_has_no_seconds_then(done, tmp_path, monkeypatch):
  train = dataclasses.replace(TRAIN, checkpoint_every=1)
  assert _methods.unfinished(tmp_path, "retrain", 601.0) == _methods.unfinished(tmp_path, "retrain", None)
  assert _methods.unfinished(tmp_path, "retrain", 599.0) is _methods.unfinished(tmp_path, "ifru", None) is None
  monkeypatch.setattr(_methods, "_LONG", 0.0)
  cells = make(tmp_path / "cells", train=train)
  cells.run("original", 0)
  unfinished = cells.path("retrain", 0) / "fit"
  save = checkpoint.RunDirectory.save

  def interrupted(self, step, *args, **options):
    save(self, step, *args, **options)
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.RunDirectory, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
      cells.run("retrain", 0)
  assert checkpoint.steps(unfinished) == [1]
  make(tmp_path / "cells", train=train).run("retrain", 0)
  assert not unfinished.exists()
  (found,), (wanted,) = (_results.load_results(folder / "retrain") for folder in (tmp_path / "cells", done))
  assert found["utility"] == wanted["utility"] and found["efficiency"]["unlearn_seconds"] is None
  assert wanted["efficiency"]["unlearn_seconds"] > 0
  cells.run("l2unrank", 0)  # what Retrain's seconds are not known for has no ratio to them
  assert _results.load_results(tmp_path / "cells" / "l2unrank")[0]["efficiency"]["retrain_ratio"] is None


def test_distances_to_retrain(done, tmp_path):
  """What is written is what the saved models say; Retrain's own distance is to the seed before, the noise floor."""
  from jaxunlearn import checkpoint, metrics
  from jaxunlearn.unlearn.retrain import ModelState, model_scorer

  folder = copy(done, tmp_path)
  cells = make(folder)
  cells.run("retrain", 1)
  cells.run("finetune", 0)

  def scorer(method, seed, data):
    params, _ = checkpoint.restore(folder / method / f"seed{seed}" / "model")
    return model_scorer(cells.model, ModelState(params, data))

  retained = DATASET.train.without(FORGET)
  original, first, second = (
    scorer("original", 0, DATASET.train),
    *(scorer("retrain", n, retained) for n in (0, 1)),
  )
  found = {
    path.parent.parent.name + path.parent.name: json.loads(path.read_text())["completeness"]
    for path in folder.rglob("result.json")
  }
  assert "spearman" not in found["retrainseed0"] and "spearman" not in found["originalseed0"]
  floor = found["retrainseed1"]
  expected = metrics.score_distance(second, first, mask=retained)
  assert floor["spearman"] == expected.user_spearman and floor["score_mae"] == expected.mean_abs
  assert floor["score_mae_sd"] == expected.relative_abs and floor["overlap@20"] == expected.overlap[20]
  assert found["retrainseed0"]["rank_shift"] == metrics.rank_shift(original, first, FORGET, mask=retained).mean
  assert found["originalseed0"]["outside@20"] == metrics.unranking(original, FORGET, mask=retained).outside[20]
  assert floor["spearman"] < found["finetuneseed0"]["spearman"] < 1  # two epochs from one start, against two starts
