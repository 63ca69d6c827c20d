"""Scripts as commands, each in a fork of a process that has imported what they share, which takes seconds of a core."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".pytest_cache" / "jaxunlearn"  # of tests and scripts, instead of the user's
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["experiments._common"])  # defines no script's flag and starts no device


def run(command: str, folder: Path, *, timeout: float = 300) -> subprocess.CompletedProcess[str]:
  """What `python -m experiments.COMMAND` does in `folder`, without a terminal and without $JAXUNLEARN_DATA."""
  words = shlex.split(command)
  with tempfile.TemporaryDirectory() as written:
    process = _FORKS.Process(target=_main, args=(words, str(folder), written))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
      process.kill()
      raise subprocess.TimeoutExpired(command, timeout)
    out, err = (Path(written, name).read_text(encoding="utf-8") for name in ("out", "err"))
  return subprocess.CompletedProcess(command, process.exitcode, out, err)


def _main(words: list[str], folder: str, written: str) -> None:
  os.environ.pop("JAXUNLEARN_DATA", None)
  os.environ |= {"JAXUNLEARN_CACHE": str(CACHE), "PYTHONPATH": str(ROOT)}  # of the scripts that it starts, too
  os.chdir(folder)
  for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
    stream.flush()
    with open(Path(written, name), "wb") as file:
      os.dup2(file.fileno(), stream.fileno())
    stream.reconfigure(encoding="utf-8")
  sys.argv = words
  runpy.run_module(f"experiments.{words[0]}", run_name="__main__", alter_sys=True)
