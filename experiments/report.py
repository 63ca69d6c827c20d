"""Makes one self-contained HTML page of the results in folders.

    python -m experiments.report --out=runs/index.html runs/compare runs/fit

Every result.json at or below a folder is in it: a section for each dataset and model, with a table that sorts, plots,
and the commands that made the numbers. The page needs no network and no other file.

    python -m experiments.report --readme=README.md

puts the table of the results that are kept with the code between the two marks of that file, and makes no page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from absl import flags

from experiments import _curves, _flags, _page, _readme, _results

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "runs/index.html", "the file to write")
flags.DEFINE_string("title", "Recommendation unlearning", "heading of the page")
flags.DEFINE_list(
  "curves",
  [],
  "JSON files of line plots to add: lists as experiments/README.md describes them, or results of audit and stream",
)
flags.DEFINE_string(
  "readme", "", "a file with marks, as README.md, that gets the table of kept results; no page is made"
)
flags.DEFINE_boolean("quiet", False, "do not print the path of the page")


def read_curves(paths: list[str]) -> list[dict[str, Any]]:
  """The plots of all files, one after another.

  Raises:
    ValueError: a file is not JSON, or neither a list nor a result of audit or stream; the message names it.
  """
  curves = []
  for path in paths:
    try:
      found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
      raise ValueError(f"{path} holds no curves: {error}.") from error
    if isinstance(found, dict):
      try:
        found = _curves.of_result(found)
      except ValueError as error:
        raise ValueError(f"{path} holds no curves: {error}.") from error
    if not isinstance(found, list):
      raise ValueError(f"{path} holds no curves: expected a list of plots, got {type(found).__name__}.")
    curves += found
  return curves


def main(argv: list[str]) -> None:
  """Reads, writes."""
  if FLAGS.readme:
    path = Path(FLAGS.readme)
    _results.write_text(path, _readme.insert(path.read_text(encoding="utf-8"), _readme.table()))
    return
  if not argv:
    raise ValueError("Expected folders with results: python -m experiments.report --out=FILE.html DIR...")
  results = _results.load_results(argv)
  path = _page.write_page(results, FLAGS.out, title=FLAGS.title, curves=read_curves(FLAGS.curves))
  if not FLAGS.quiet:
    print(path)


if __name__ == "__main__":
  _flags.run(main, positional="DIR...", interrupted="Interrupted: no page was written.")
