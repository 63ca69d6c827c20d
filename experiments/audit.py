"""Membership audit: can an attacker tell forgotten pairs from pairs that were never trained on?

    python -m experiments.audit --dataset=ml-100k --model=bprmf --methods=retrain,rownewton,l2unrank \\
        --num_shadows=64 --out=runs/audit

Members are random train pairs, all forgotten in one request; non-members are as many held-out pairs, of train (no model
sees them) or, with --held_out=test, of test. That is of another kind than train more often than not: where it is a
tenth of each user's pairs, rounded down, a user's degree alone tells them apart (AUC 0.485 on ml-100k). Three attacks:
a threshold on the score, a classifier trained on pairs whose membership is known, and a likelihood-ratio attack with
shadow models, each trained on the retained pairs and a random half of those in question. Exact retraining has to come
out at 0.5, the original model above.

A method that trains models of its own (shards, groups) is fitted on train by its own recipe, and audited before the
request (NAME[before]) and after it: at 0.5 afterwards tells nothing if the attack finds nothing before. The shadow
models are the base model's. Its scores are not those of one model of all data, so that for such a method the likelihood
ratio is an attack that works as far as both memorise alike, and no bound on one that trains shadows of its kind.

Kept below --out, so that the same command resumes: shadow models, the original model, vectors that partitions are made
from, and what was found of each method (attacks/METHOD.json).
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Any

import jax
from absl import flags

from experiments import _audit, _common, _flags, _identity, _names, _report, _results
from experiments._methods import CONFIGS as METHOD_CONFIGS
from experiments._methods import LIGHTUL, METHODS, OWN_FIT, defaults, run_request, settings, variant
from jaxunlearn._validate import check_choice
from jaxunlearn.base import Embeddings, Scorer
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.models import CONFIGS
from jaxunlearn.recipes import recipe
from jaxunlearn.unlearn._partitions import pretrained
from jaxunlearn.unlearn.lightul import LightULConfig, lightul
from jaxunlearn.unlearn.retrain import ModelState, model_scorer

FLAGS = flags.FLAGS
_common.data_flags("ml-100k")
flags.DEFINE_enum("model", "bprmf", list(CONFIGS), "base model")
flags.DEFINE_list(
  "methods", ["retrain", "finetune", "ifru", "l2unrank", "lightul", "rownewton"],
  f"of {', '.join(METHODS)}; METHOD[field=value+…] changes its configuration, as l2unrank[hops=2]",
)  # fmt: skip
flags.DEFINE_integer("num_shadows", 64, "shadow models, an even number", lower_bound=4)
flags.DEFINE_integer("num_pairs", 1000, "pairs to be forgotten, and held-out pairs beside them", lower_bound=1)
flags.DEFINE_enum(
  "held_out", "train", ["train", "test"], "where held-out pairs are drawn; train is right for any split"
)
flags.DEFINE_integer("epochs", 60, "epochs of every training of the base model", lower_bound=1)
flags.DEFINE_integer(
  "shard_epochs", 0, "epochs of every shard of methods with shards, of every group of LASER; 0: of recipe shards",
  lower_bound=0,
)  # fmt: skip
flags.DEFINE_integer("seed", 0, "of pairs, halves and trainings", lower_bound=0)
flags.DEFINE_string("out", "runs/audit", "folder for shadow models' scores, result.json, table and plot")
flags.DEFINE_boolean("overwrite", False, "remove what --out keeps first")
flags.DEFINE_boolean("quiet", False, "no progress bar, no table")
_common.define_model_flags()
_common.define_lightul_flags()
for _name, _config in METHOD_CONFIGS.items():
  _flags.define(_name, _config)


def main(argv: list[str]) -> None:
  """Trains, unlearns, attacks, writes, draws."""
  del argv
  out = _results.prepare_out(FLAGS.out)
  _identity.alone(out, "audit")
  _common.use_compilation_cache()
  for method in FLAGS.methods:
    check_choice("methods", variant(method)[0], METHODS)
  how = _common.override(recipe(FLAGS.model), FLAGS.model)
  model, config = how.model(FLAGS.model), dataclasses.replace(how.train_config, num_epochs=FLAGS.epochs)
  if {variant(method)[0] for method in FLAGS.methods} & set(LIGHTUL):
    lightul(model)  # raises where it is not defined: now, not after the shadow models
  dataset = _common.load_dataset()
  question = _audit.draw_question(dataset, FLAGS.num_pairs, FLAGS.seed, held_out=FLAGS.held_out)
  everything = dataset.train
  dataset = dataclasses.replace(dataset, train=question.train, timestamp=None)  # nothing here asks when
  shadows = out / "shadows"
  identity: dict[str, Any] = {
    "config": {"model": how.model_config, "train": config, "num_shadows": FLAGS.num_shadows, "seed": FLAGS.seed},
    "data_hash": dataset.train.digest(),
    "forget_hash": question.members.digest(),
  }
  if FLAGS.overwrite:
    _identity.remove(shadows, out / "fit", out / "vectors", out / "attacks")
  newer = {"config": _common.defaults(how)}
  _identity.claim(shadows, identity, newer)
  progress = not FLAGS.quiet and sys.stderr.isatty()
  key = jax.random.key(FLAGS.seed)
  shadow, included = _audit.shadow_scores(
    key, model, config, question, FLAGS.num_shadows, shadows, FLAGS.seed, progress=progress
  )
  chosen = _audit.subsets(question, shadow, included)
  measure = _common.Measure(dataset, question.members, mask=everything)
  fitted = _common.timed_fit(
    key, model, dataset.train, config, folder=out / "fit", progress=None if progress else False
  )
  state = ModelState(fitted.value.params, dataset.train)
  audits: dict[str, Any] = {}
  utility: dict[str, Any] = {}
  methods: dict[str, Any] = {}

  def attacks(scorer: Scorer) -> dict[str, Any]:
    numbers = _audit.attack(scorer, question, shadow, included, FLAGS.seed)
    return dict(_results.plain(_audit.measure(numbers, chosen, question)))

  def vectors(key: jax.Array, interactions: Interactions) -> Embeddings:
    return _common.cached_vectors(out / "vectors", lambda: pretrained(key, interactions))

  original = model_scorer(model, state)
  audits["original"], utility["original"] = attacks(original), measure.utility(original)
  for label in sorted(set(FLAGS.methods), key=_names.rank):
    method, _, own = variant(label)
    if method in LIGHTUL:
      chosen_lightul = LightULConfig.preset("preserve", FLAGS.model, **{**_common.present("lightul"), **own})
      configs: dict[str, Any] = {"method": chosen_lightul}
    else:
      changes = {**_common.present(method), **own}
      configs = settings(method, FLAGS.model, config, changes, shard_epochs=FLAGS.shard_epochs)
    methods[label] = configs
    if method in OWN_FIT:
      run = functools.partial(
        _audit.before_and_after, key, method, FLAGS.model, configs, dataset.train, question, measure, attacks,
        vectors=vectors, progress=None if progress else False,
      )  # fmt: skip
    else:
      request = functools.partial(
        run_request, key, method, model, config, state, question.members, measure, chosen=configs.get("method"),
        progress=None if progress else False,
      )  # fmt: skip
      run = functools.partial(_audit.after, method, request, attacks)
    path = out / "attacks" / f"{label}.json"
    found = _identity.kept(
      path, {**identity, "method": configs}, run, {**newer, "method": {"method": defaults(method)}}
    )
    audits |= {name.replace(method, label, 1): value for name, value in found["audit"].items()}
    utility |= {name.replace(method, label, 1): value for name, value in found["utility"].items()}
  result = {
    "schema": _results.SCHEMA,
    "audit": audits,
    "utility": utility,
    "methods": methods,
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
