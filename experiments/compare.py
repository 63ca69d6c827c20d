"""Runs methods × models × seeds on one dataset and forget set, and makes one table and plot of them.

    python -m experiments.compare --dataset=ml-1m --models=bprmf,wmf --methods=original,retrain,lightul --seeds=5 \\
        --forget=../shared/data/ml-1m/forget/intr_0.01.txt --out=runs/compare

The number of epochs of a model is found once, on a validation part of train, and holds for all seeds and for Retrain.
Every cell is a result.json of its own; a cell that is there is not run again, so the same command resumes. Where --out
holds cells of other settings, data or pairs to forget, the command stops and says what differs.
"""

from __future__ import annotations

import sys

from absl import flags
from tqdm import tqdm

from experiments import _common, _flags, _names, _report, _results
from experiments._cells import Cells
from experiments._methods import CONFIGS as METHOD_CONFIGS
from experiments._methods import LIGHTUL, METHODS, OWN_FIT, POST_HOC, settings, variant
from jaxunlearn._validate import check_choice
from jaxunlearn.models import CONFIGS
from jaxunlearn.recipes import RECIPES, Recipe, recipe
from jaxunlearn.unlearn.lightul import OBJECTIVES, LightULConfig, lightul

FLAGS = flags.FLAGS
_common.data_flags("synthetic")
flags.DEFINE_list("models", ["bprmf"], f"base models, of {', '.join(CONFIGS)}")
flags.DEFINE_list(
  "methods", ["original", "retrain", "lightul-wm", "lightul"],
  f"of original, {', '.join(METHODS)}; METHOD[field=value+…] changes its configuration, as l2unrank[hops=2]",
)  # fmt: skip
flags.DEFINE_list("objectives", ["preserve"], f"of LightUL: {', '.join(OBJECTIVES)}")
flags.DEFINE_enum(
  "recipe", "tuned", list(RECIPES), "training recipe; --train.* and --MODEL.* change single values of it"
)
flags.DEFINE_integer("seeds", 5, "number of seeds: first_seed … first_seed + seeds − 1", lower_bound=1)
flags.DEFINE_integer("first_seed", 0, "the first of them; `summarise` pools what several folders have", lower_bound=0)
flags.DEFINE_integer("epochs", 0, "epochs of every model; 0: found on a validation part of train")
flags.DEFINE_integer(
  "shard_epochs", 0, "epochs of every shard of methods with shards, of every group of LASER; 0: of recipe shards",
  lower_bound=0,
)  # fmt: skip
flags.DEFINE_enum(
  "shard_recipe",
  "",
  ["", *RECIPES],
  "training recipe of shards and groups; empty: recipe shards, or user-shards; --shards.* change single values of it",
)
_common.forget_flags()
flags.DEFINE_string("out", "runs/compare", "folder for all cells, the table and the plot")
flags.DEFINE_boolean("overwrite", False, "remove the cells of these models in --out first, and run all of them anew")
flags.DEFINE_boolean("quiet", False, "no progress bar, no table")
_common.define_model_flags()
_common.define_model_flags("shards.")
_common.define_lightul_flags()
for _name, _config in METHOD_CONFIGS.items():
  _flags.define(_name, _config)


def recipes() -> dict[str, Recipe]:
  """How each of --models is trained; ValueError, before anything is, where a method is not defined for one of them."""
  for name in ("models", "methods", "objectives"):
    if not getattr(FLAGS, name):
      raise ValueError(f"Expected --{name}=… to name one at least, got an empty list.")
  for name, choices in (("models", CONFIGS), ("objectives", OBJECTIVES)):
    for value in getattr(FLAGS, name):
      check_choice(name, value, choices)
  found = {name: _common.override(recipe(name, FLAGS.recipe), name) for name in FLAGS.models}
  shards = {"shard_epochs": FLAGS.shard_epochs, "shard_recipe": FLAGS.shard_recipe}
  for name, how in found.items():
    for label in FLAGS.methods:  # each is made once, which raises where it is not defined: now, not after hours
      method, _, own = variant(label)
      if method in LIGHTUL:
        lightul(how.model(name))
        for objective in FLAGS.objectives:
          LightULConfig.preset(objective, name, **{**_common.present("lightul"), **own})
        continue
      changes = {**_common.present(method), **own} if method in METHOD_CONFIGS else {}
      if method in POST_HOC:
        chosen = settings(method, name, how.train_config, changes)
        POST_HOC[method][0](how.model(name), how.train_config, chosen["method"])
      elif method in OWN_FIT:
        chosen = settings(method, name, how.train_config, changes, **shards, shard_changes=_common.present("shards"))
        model = Recipe(chosen["shard_model"], chosen["shard_train"]).model(name)
        OWN_FIT[method][0](model, chosen["shard_train"], chosen["method"])
  return found


def main(argv: list[str]) -> None:
  """All cells, then the table and the plot."""
  del argv
  out = _results.prepare_out(FLAGS.out)
  _common.use_compilation_cache()
  how = recipes()
  dataset = _common.load_dataset()
  forget = _common.forget_from_flags(dataset.train, seed=0)
  measure = _common.Measure(dataset, forget)
  planned = [
    (name, method, objective, seed)
    for name in FLAGS.models
    for seed in range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds)
    for method in sorted(set(FLAGS.methods), key=_names.rank)  # Retrain before those that are compared with it
    for objective in (FLAGS.objectives if variant(method)[0] in LIGHTUL else FLAGS.objectives[:1])
  ]
  cells: dict[str, Cells] = {}
  hide = FLAGS.quiet or not sys.stderr.isatty()
  for name, method, objective, seed in tqdm(planned, desc="cells", disable=hide):
    if name not in cells:
      cells[name] = Cells(
        out / name, name, how[name], FLAGS.recipe, dataset, forget, measure,
        epochs=FLAGS.epochs, lightul=_common.present("lightul"),
        changes={method: _common.present(method) for method in METHOD_CONFIGS},
        shard_epochs=FLAGS.shard_epochs, shard_recipe=FLAGS.shard_recipe, shard_changes=_common.present("shards"),
        overwrite=FLAGS.overwrite, progress=False if FLAGS.quiet else None,
      )  # fmt: skip
    cells[name].run(method, seed, objective)
  results = _results.load_cells(out)
  files = _report.write(results, out, title=f"{dataset.name}: utility against completeness")
  if not FLAGS.quiet:
    _report.show(results)
    if measure.probe is None:
      print(_common.NO_AUC, file=sys.stderr)
    print("\n".join(map(str, files)), file=sys.stderr)


if __name__ == "__main__":
  _flags.run(main)
