"""Makes a table of a paper again: runs what is missing, and puts the paper's numbers beside ours.

    python -m experiments.reproduce --table=receraser-3 --out=runs/reproduce
    python -m experiments.reproduce --table=receraser-3 --norun          # from the results that are kept with the code

Every part of a table is one command of `compare`, printed before it runs; it resumes where it was killed, and so does
this. With --norun nothing is trained: the table is made from experiments/results alone.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import flags

from experiments import _flags, _page, _report, _reproductions, _results
from experiments._tables import TABLES
from jaxunlearn.data import datasets

FLAGS = flags.FLAGS
flags.DEFINE_enum("table", None, list(TABLES), "which table", required=True)
flags.DEFINE_boolean("run", True, "run the parts; --norun makes the table of what is kept in experiments/results")
flags.DEFINE_list("parts", [], "of the table, all when empty")
flags.DEFINE_integer("seeds", 0, "number of seeds of every part; 0: the table's own", lower_bound=0)
flags.DEFINE_string("data_dir", None, f"folder of dataset folders; default: ${datasets.DATA_VARIABLE}")
flags.DEFINE_string("out", "runs/reproduce", "folder for the cells of all parts, the table and the page")
flags.DEFINE_boolean("quiet", False, "no progress bar, no table")

_KEPT = Path(__file__).parent / "results"


def run_parts(table: _reproductions.Table, names: list[str], out: Path) -> list[Path]:
  """Runs the named parts of a table one after another; the folders of their cells.

  Raises:
    ValueError: no such part.
    OSError: a part failed; its own message is on standard error.
  """
  unknown = [name for name in names if name not in table.parts]
  if unknown:
    raise ValueError(f"Expected --parts of {', '.join(table.parts)}, got {', '.join(unknown)}.")
  data = FLAGS.data_dir or os.environ.get(datasets.DATA_VARIABLE)
  if not data and any("$D" in flag for part in table.parts.values() for flag in part.flags):
    raise ValueError(f"Expected --data_dir, or ${datasets.DATA_VARIABLE}: the forget sets are files beside the data.")
  folders = []
  for name in names or table.parts:
    command = table.parts[name].command(data or "", out / name, FLAGS.seeds or None)
    command += [*([f"--data_dir={data}"] if data else []), *(["--quiet"] if FLAGS.quiet else [])]
    if not FLAGS.quiet:
      print(f"python -m {shlex.join(command)}", file=sys.stderr)
    done = subprocess.run([sys.executable, "-m", *command], check=False)
    if done.returncode:
      raise OSError(f"Part {name} ended with exit code {done.returncode}; run the command again to resume it.")
    folders.append(out / name)
  return folders


def main(argv: list[str]) -> None:
  """Runs, reads, writes."""
  del argv
  table = TABLES[FLAGS.table]
  out = _results.prepare_out(Path(FLAGS.out) / FLAGS.table)
  if FLAGS.parts and not FLAGS.run:
    raise ValueError(f"Expected --parts={','.join(FLAGS.parts)} without --norun, which makes the table of all parts.")
  folders = run_parts(table, FLAGS.parts, out) if FLAGS.run else [_KEPT / name for name in table.kept]
  if not folders:
    raise ValueError(f"Expected --run for --table={FLAGS.table}: none of its results are kept with the code.")
  results: list[dict[str, Any]] = _results.load_results(folders)
  heads, body = _reproductions.lines(_report.collect(results), table)
  text = f"# {table.title}\n\n{_report.markdown_table(heads, body)}\n\n" + "".join(
    f"    python -m {shlex.join(part.command('$D', Path(FLAGS.out) / FLAGS.table / name))}\n"
    for name, part in table.parts.items()
  )
  path = _results.write_text(out / "table.md", text)
  page = _page.write_page(results, out / "index.html", title=table.title)
  if not FLAGS.quiet:
    print(_report.text_table(heads, body, box=False))
    print(f"{path}\n{page}", file=sys.stderr)


if __name__ == "__main__":
  _flags.run(main, interrupted="Interrupted: what is finished is kept; the same command resumes.")
