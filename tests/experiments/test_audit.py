"""The membership audit: pairs, shadow models, attacks, and the script as a command."""

import json

import jax
import numpy as np
import pytest

from experiments import _audit
from experiments._common import Measure
from experiments._methods import settings
from jaxunlearn.data import SyntheticConfig, generate
from jaxunlearn.metrics import membership
from jaxunlearn.models import BPRMFConfig, bprmf
from jaxunlearn.shards import Placement
from jaxunlearn.train import TrainConfig, fit
from jaxunlearn.unlearn.retrain import ModelState, model_scorer
from tests import scripts

DATASET = generate(SyntheticConfig(num_users=60, num_items=50, num_pairs=1500, num_clusters=3)).dataset
MODEL = bprmf(BPRMFConfig(embedding_dim=16, l2=1e-4))
CONFIG = TrainConfig(num_epochs=60, batch_size=128, learning_rate=2e-2)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
  """A question, the shadow models' scores of it, and their folder."""
  folder = tmp_path_factory.mktemp("audit")
  question = _audit.draw_question(DATASET, 60, seed=1, held_out="test")
  return (
    question,
    *_audit.shadow_scores(jax.random.key(0), MODEL, CONFIG, question, 16, folder, 0, progress=False),
    folder,
  )


def test_the_pairs_in_question():
  question = _audit.draw_question(DATASET, 60, seed=3, held_out="test")
  assert len(question.members) == len(question.non_members) == 60
  assert DATASET.train.contains(question.members).all() and not question.base.contains(question.members).any()
  assert DATASET.test.contains(question.non_members).all() and not question.known.contains(question.non_members).any()
  assert len(question.base) + 60 == len(DATASET.train) and len(question.known) + 60 == len(DATASET.test)
  with pytest.raises(ValueError, match="--num_pairs=100000"):
    _audit.draw_question(DATASET, 100_000, seed=0)


def test_pairs_held_out_of_train_are_in_no_model():
  question = _audit.draw_question(DATASET, 60, seed=3, held_out="train")
  parts = (question.base, question.members, question.non_members, question.known)
  assert [len(part) for part in parts[1:]] == [60, 60, 120] and sum(map(len, parts)) == len(DATASET.train)
  together = question.base
  for part in parts[1:]:
    together = together.union(part)
  assert together.digest() == DATASET.train.digest()  # none is in two parts
  assert question.train.digest() == question.base.union(question.members).digest()
  with pytest.raises(ValueError, match="--num_pairs=500"):
    _audit.draw_question(DATASET, 500, seed=0, held_out="train")


def test_shadow_models_are_trained_once_on_their_halves(audited, monkeypatch, tmp_path):
  question, shadow, included, folder = audited
  assert shadow.shape == included.shape == (16, 120)
  np.testing.assert_array_equal(included.sum(axis=0), 8)
  # One of them again, alone: on the base and its half, with its key.
  inside = np.split(included[9], [60])
  part = question.base
  for pairs, keep in zip(question.targets, inside, strict=True):
    part = part.union(pairs.select(keep))
  params = fit(jax.random.fold_in(jax.random.key(0), 1009), MODEL, part, CONFIG, progress=False).params
  alone = _audit.scores_of(model_scorer(MODEL, ModelState(params, part)), question)
  np.testing.assert_allclose(shadow[9], alone, rtol=1e-3, atol=1e-3)
  monkeypatch.setattr(_audit, "train_shards", None)
  again, _ = _audit.shadow_scores(jax.random.key(0), MODEL, CONFIG, question, 16, folder, 0, progress=False)
  np.testing.assert_array_equal(again, shadow)
  # Kept as they are done, so that one that was stopped goes on; and read whether kept alone or in groups.
  size = 1 if Placement().resolved == "map" else _audit.GROUP
  assert [path.name for path in sorted(folder.glob("*.npy"))] == [f"{first:04d}.npy" for first in range(0, 16, size)]
  grouped = tmp_path / "shadows"
  grouped.mkdir()
  for first in (0, 8):
    np.save(grouped / f"{first:04d}.npy", shadow[first : first + 8])
  again, _ = _audit.shadow_scores(jax.random.key(0), MODEL, CONFIG, question, 16, grouped, 0, progress=False)
  np.testing.assert_array_equal(again, shadow)


def test_the_original_is_found_out_and_exact_retraining_is_not(audited):
  """What the audit is for. The model overfits on purpose, so that membership shows."""
  question, shadow, included, _ = audited
  chosen = _audit.subsets(question, shadow, included)
  assert {name: int(keep.sum()) for name, keep in chosen.items()} == {"all": 120, "memorised": 30, "atypical": 30}
  memorised = membership.memorisation(shadow, included)
  assert memorised[chosen["memorised"]].min() >= memorised[~chosen["memorised"]].max()
  found = {}
  for name, data in (("original", DATASET.train), ("retrain", question.base)):
    params = fit(jax.random.key(7), MODEL, data, CONFIG, progress=False).params
    numbers = _audit.attack(model_scorer(MODEL, ModelState(params, data)), question, shadow, included, seed=0)
    found[name] = _audit.measure(numbers, chosen, question)
  for attack in ("threshold", "trained", "lira"):
    assert found["original"][attack]["all"]["auc_interval"][0] > 0.95
    assert abs(found["retrain"][attack]["all"]["auc"] - 0.5) < 0.16  # three standard deviations for 60 of each
  assert found["original"]["lira"]["all"]["tpr"][0.01] > 0.9 > 0.2 > found["retrain"]["lira"]["all"]["tpr"][0.01]


def test_shards_are_found_out_before_a_request_and_not_after_it(audited):
  """Of an exact method: its shards overfit on purpose, so that what it says of the members is theirs until they go."""
  question, shadow, included, _ = audited
  chosen = _audit.subsets(question, shadow, included)
  configs = settings("sisa", "bprmf", CONFIG, {"num_shards": 2})
  configs |= {"shard_model": BPRMFConfig(embedding_dim=16, l2=1e-4), "shard_train": CONFIG}

  def attacks(scorer):
    return _audit.measure(_audit.attack(scorer, question, shadow, included, seed=0), chosen, question)

  found = _audit.before_and_after(
    jax.random.key(3), "sisa", "bprmf", configs, DATASET.train, question, Measure(DATASET), attacks, progress=False
  )
  assert list(found["audit"]) == list(found["utility"]) == ["sisa[before]", "sisa"]
  for attack in ("threshold", "trained", "lira"):
    assert found["audit"]["sisa[before]"][attack]["all"]["auc_interval"][0] > 0.66
    assert abs(found["audit"]["sisa"][attack]["all"]["auc"] - 0.5) < 0.16  # three standard deviations for 60 of each
  assert found["utility"]["sisa"]["ndcg@20"] != found["utility"]["sisa[before]"]["ndcg@20"]


def test_as_a_command(tmp_path):
  command = (
    "audit --dataset=synthetic --methods=retrain,finetune,finetune[num_epochs=2],sisa "
    "--num_shadows=4 --num_pairs=50 --epochs=2 "
    "--held_out=train --bprmf.embedding_dim=4 --shard_epochs=2 --sisa.num_shards=2 --out=out"
  )
  done = scripts.run(command, tmp_path)
  assert done.returncode == 0, done.stderr
  result = json.loads((tmp_path / "out" / "result.json").read_text())
  methods = ["original", "retrain", "sisa[before]", "sisa", "finetune", "finetune[num_epochs=2]"]
  assert list(result["audit"]) == list(result["utility"]) == methods
  assert (
    result["methods"]["sisa"]["shard_train"]["num_epochs"] == result["methods"]["sisa"]["method"]["num_shards"] == 2
  )
  assert result["methods"][methods[-1]]["method"]["num_epochs"] == 2
  assert result["audit"][methods[-1]]["lira"] != result["audit"]["finetune"]["lira"]
  assert set(result["audit"]["retrain"]["lira"]["all"]["tpr"]) == {"0.001", "0.01"}
  assert "Fine-tune" in done.stdout and "SISA [before]" in done.stdout and (tmp_path / "out" / "plot.svg").exists()
  for method in ("retrain", "sisa"):  # served again, they were not trained again
    kept = tmp_path / "out" / "attacks" / f"{method}.json"
    found = json.loads(kept.read_text())
    found["found"]["utility"][method]["ndcg@20"] = 7.0
    kept.write_text(json.dumps(found))
  short = command.replace("retrain,finetune,finetune[num_epochs=2],sisa", "retrain,sisa")
  resumed = scripts.run(short, tmp_path)
  assert resumed.returncode == 0, resumed.stderr
  again = json.loads((tmp_path / "out" / "result.json").read_text())
  for method in ("retrain", "sisa"):
    assert again["utility"][method]["ndcg@20"] == 7.0 and again["audit"][method] == result["audit"][method]
  other = scripts.run(short.replace("--shard_epochs=2", "--shard_epochs=3"), tmp_path)
  assert other.returncode == 1 and "num_epochs is 2 there and 3 here" in other.stderr
  refused = scripts.run(short.replace("--epochs=2", "--epochs=3"), tmp_path)
  assert refused.returncode == 1 and "num_epochs is 2 there and 3 here" in refused.stderr
