"""Membership audit: can an attacker tell forgotten pairs from pairs that were never trained on?

    python -m experiments.audit --dataset=ml-100k --model=bprmf --methods=retrain,rownewton,l2unrank \\
        --num_shadows=64 --out=runs/audit

Members are random train pairs, all forgotten in one request; non-members are as many held-out pairs. Three attacks: a
threshold on the score, a classifier trained on pairs whose membership is known, and a likelihood-ratio attack with
shadow models, each trained on the retained pairs and a random half of those in question. Exact retraining has to come
out at 0.5, the original model above. Shadow models are kept below --out: the same command resumes.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import jax
from absl import flags

from experiments import _audit, _common, _flags, _identity, _names, _report, _results
from experiments._methods import LIGHTUL, POST_HOC, run_request, settings
from jaxunlearn._validate import check_choice
from jaxunlearn.models import CONFIGS
from jaxunlearn.recipes import recipe
from jaxunlearn.unlearn.lightul import LightULConfig
from jaxunlearn.unlearn.retrain import ModelState, model_scorer

FLAGS = flags.FLAGS
_METHODS = ("retrain", *LIGHTUL, *POST_HOC)
_common.data_flags("ml-100k")
flags.DEFINE_enum("model", "bprmf", list(CONFIGS), "base model")
flags.DEFINE_list(
  "methods", ["retrain", "finetune", "ifru", "l2unrank", "lightul", "rownewton"], f"of {', '.join(_METHODS)}"
)
flags.DEFINE_integer("num_shadows", 64, "shadow models, an even number", lower_bound=4)
flags.DEFINE_integer("num_pairs", 1000, "pairs to be forgotten, and held-out pairs beside them", lower_bound=1)
flags.DEFINE_integer("epochs", 60, "epochs of every training", lower_bound=1)
flags.DEFINE_integer("seed", 0, "of pairs, halves and trainings")
flags.DEFINE_string("out", "runs/audit", "folder for shadow models' scores, result.json, table and plot")
flags.DEFINE_boolean("overwrite", False, "remove the shadow models of --out first")
flags.DEFINE_boolean("quiet", False, "no progress bar, no table")
_common.define_model_flags()
_flags.define("lightul", LightULConfig())
for _name, (_, _config) in POST_HOC.items():
  _flags.define(_name, _config)


def main(argv: list[str]) -> None:
  """Trains, unlearns, attacks, writes, draws."""
  del argv
  out = _results.prepare_out(FLAGS.out)
  _common.use_compilation_cache()
  for method in FLAGS.methods:
    check_choice("methods", method, _METHODS)
  how = _common.override(recipe(FLAGS.model), FLAGS.model)
  model, config = how.model(FLAGS.model), dataclasses.replace(how.train_config, num_epochs=FLAGS.epochs)
  dataset = _common.load_dataset()
  question = _audit.draw_question(dataset, FLAGS.num_pairs, FLAGS.seed)
  shadows = out / "shadows"
  identity: dict[str, Any] = {
    "config": {"model": how.model_config, "train": config, "num_shadows": FLAGS.num_shadows, "seed": FLAGS.seed},
    "data_hash": dataset.train.digest(),
    "forget_hash": question.members.digest(),
  }
  if FLAGS.overwrite:
    _identity.remove(shadows)
  _identity.claim(shadows, identity)
  progress = not FLAGS.quiet and sys.stderr.isatty()
  key = jax.random.key(FLAGS.seed)
  shadow, included = _audit.shadow_scores(
    key, model, config, question, FLAGS.num_shadows, shadows, FLAGS.seed, progress=progress
  )
  chosen = _audit.subsets(question, shadow, included)
  measure = _common.Measure(dataset, question.members)
  fitted = _common.timed_fit(
    key, model, dataset.train, config, folder=out / "fit", progress=None if progress else False
  )
  state = ModelState(fitted.value.params, dataset.train)
  audits, utility = {}, {}

  def audit(method: str, scorer: Any, ranked: dict[str, float]) -> None:
    numbers = _audit.attack(scorer, question, shadow, included, FLAGS.seed)
    audits[method] = _results.plain(_audit.measure(numbers, chosen, question))
    utility[method] = ranked

  original = model_scorer(model, state)
  audit("original", original, measure(original)[0])
  for method in sorted(set(FLAGS.methods), key=_names.rank):
    if method in LIGHTUL:
      method_config: Any = LightULConfig.preset("preserve", FLAGS.model, **_common.present("lightul"))
    else:
      method_config = settings(method, FLAGS.model, config, _common.present(method)).get("method")
    outcome = run_request(
      key, method, model, config, state, question.members, measure, chosen=method_config, progress=False
    )
    audit(method, outcome.scorer, outcome.utility)
  result = {
    "schema": _results.SCHEMA,
    "audit": audits,
    "utility": utility,
    "num_shadows": FLAGS.num_shadows,
    "dataset": dataset.name,
    "model": FLAGS.model,
    **identity,
    **_results.provenance(),
  }
  files = [_results.write_result(out, result), *_audit.draw(audits, out / "plot")]
  if not FLAGS.quiet:
    print(_report.text_table(*_audit.table(_by_number(audits)), box=False))
    print("\n".join(map(str, files)), file=sys.stderr)


def _by_number(audits: dict[str, Any]) -> dict[str, Any]:
  """JSON's text keys of rates as numbers again."""
  for attacks in audits.values():
    for found in attacks.values():
      for result in found.values():
        result["tpr"] = {float(rate): value for rate, value in result["tpr"].items()}
  return audits


if __name__ == "__main__":
  _flags.run(main, interrupted="Interrupted: shadow models resume; run the command again.")
