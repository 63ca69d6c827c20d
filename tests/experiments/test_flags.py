"""Flags from configs: types, help, suggestions, exit codes."""

import dataclasses
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Literal

import pytest
from absl import flags

from experiments import _flags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
  depth: int = 2  # layers, ≥ 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
  rate: float = 1e-3  # step size, > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Base):
  """Words with # a hash: no comment of a field."""

  epochs: int = 200  # passes, ≥ 1
  avoid: bool = True  # leave positives out
  name: str = "a#b"  # any text
  limit: int | None = None  # upper bound
  widths: tuple[int, ...] = (64, 32)  # layers
  span: tuple[int, float] = (1, 0.5)  # two numbers
  # above the field,
  # in two lines
  mode: Literal["sum", "mean"] = "sum"
  number: int | float | None = 3  # either
  bracket: str = "long"  # inside
  told: int = dataclasses.field(default=1, metadata={"help": "from metadata"})
  inner: Inner = Inner()
  callback: object = None  # no flag

  def __post_init__(self) -> None:
    local = 3  # not a field
    if self.epochs < local - 2:
      raise ValueError(f"Expected epochs={self.epochs} > 0.")


def parse(*words: str) -> Config:
  values = flags.FlagValues()
  build = _flags.define("train", Config(), flag_values=values)
  values(["script", *words])
  return build()


def test_a_field_that_something_else_decides_gets_no_flag():
  values = flags.FlagValues()
  build = _flags.define("train", Config(epochs=7), without=("epochs", "mode"), flag_values=values)
  assert "train.rate" in values and "train.epochs" not in values and "train.mode" not in values
  values(["script", "--train.rate=0.5"])
  assert build() == Config(epochs=7, rate=0.5)


def test_defaults():
  assert parse() == Config()


@pytest.mark.parametrize(
  ("word", "expected"),
  [
    ("--train.epochs=3", {"epochs": 3}),
    ("--train.rate=0.5", {"rate": 0.5}),
    ("--notrain.avoid", {"avoid": False}),
    ("--train.avoid=false", {"avoid": False}),
    ("--train.name=x=y", {"name": "x=y"}),
    ("--train.limit=4", {"limit": 4}),
    ("--train.limit=none", {"limit": None}),
    ("--train.widths=1, 2,3", {"widths": (1, 2, 3)}),
    ("--train.widths=", {"widths": ()}),
    ("--train.span=3,0.25", {"span": (3, 0.25)}),
    ("--train.mode=mean", {"mode": "mean"}),
    ("--train.number=2.5", {"number": 2.5}),
    ("--train.number=2", {"number": 2}),
    ("--train.inner.depth=5", {"inner": Inner(depth=5)}),
  ],
)
def test_each_type(word, expected):
  config = parse(word)
  assert config == dataclasses.replace(Config(), **expected)
  for name, value in expected.items():
    assert type(getattr(config, name)) is type(value)


@pytest.mark.parametrize(
  "word", ["--train.epochs=1.5", "--train.mode=max", "--train.span=1", "--train.widths=a", "--train.avoid=maybe"]
)
def test_wrong_values(word):
  with pytest.raises(flags.IllegalFlagValueError, match=r"train\."):
    parse(word)


def test_fields_of_a_variant():
  found = _flags.parse_fields(Config(), "inner.depth=3+avoid=False+limit=none")
  assert found == {"inner.depth": 3, "avoid": False, "limit": None}
  for text in ("callback=x", "inner=3", "inner.width=3", "epochs=2+epochs=3", "epochs"):
    with pytest.raises(ValueError, match="each once") as error:
      _flags.parse_fields(Config(), text)
    assert "inner.depth" in str(error.value) and "callback," not in str(error.value)


def test_validation_passes_through():
  with pytest.raises(ValueError, match="epochs=0"):
    parse("--train.epochs=0")


def test_comments():
  comments = _flags.field_comments(Config)
  assert comments["rate"] == "step size, > 0"
  assert comments["epochs"] == "passes, ≥ 1"
  assert comments["mode"] == "above the field, in two lines"
  assert comments["bracket"] == "inside"
  assert "local" not in comments


def test_help_text():
  values = flags.FlagValues()
  _flags.define("train", Config(), flag_values=values)
  assert values["train.told"].help == "from metadata"
  assert values["train.limit"].help == "upper bound (default: none)"
  assert "train.callback" not in values


def test_no_source():
  cls = dataclasses.make_dataclass("Made", [("size", int, 3)], frozen=True)
  values = flags.FlagValues()
  build = _flags.define("", cls(), flag_values=values)
  values(["script", "--size=4"])
  assert build().size == 4
  assert values["size"].help == "size of Made"


def test_suggestions():
  known = ["dataset", "train.num_epochs", "train.rate", "model.rate"]
  assert _flags.suggest("datset", known) == "dataset"
  assert _flags.suggest("num_epochs", known) == "train.num_epochs"
  assert _flags.suggest("train.num_epoch", known) == "train.num_epochs"
  assert _flags.suggest("num_epoch", known) == "train.num_epochs"
  assert _flags.suggest("xyz", known) is None


SCRIPT = '''
"""Does a thing.

  python -m experiments.thing --dataset=ml-1m
"""
import dataclasses
from absl import flags
from experiments import _flags

@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  num_epochs: int = 200  # passes over the pairs, at least 1

  def __post_init__(self):
    if self.num_epochs < 1:
      raise ValueError(f"Expected num_epochs={self.num_epochs}\\n> 0.")

build = _flags.define("train", TrainConfig())
DATASET = flags.DEFINE_string("dataset", "ml-1m", "which data")
flags.DEFINE_boolean("overwrite", False, "remove what is there")

def main(arguments):
  print(build(), DATASET.value, arguments)
  if DATASET.value == "interrupt":
    raise KeyboardInterrupt
  if DATASET.value == "missing":
    open("/nowhere/file")
  if DATASET.value == "fault":
    raise RuntimeError("ours")
  return 7 if DATASET.value == "seven" else None

if __name__ == "__main__":
  _flags.run(main)
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory):
  path = tmp_path_factory.mktemp("script") / "thing.py"
  path.write_text(textwrap.dedent(SCRIPT).lstrip(), encoding="utf-8")

  def call(*words: str) -> tuple[int, str, str]:
    root = Path(_flags.__file__).parents[1]
    done = subprocess.run(
      [sys.executable, str(path), *words], capture_output=True, text=True, timeout=120,
      env={"PYTHONPATH": str(root), "PATH": "", "PYTHONIOENCODING": "utf-8"}, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr

  return call


def test_script_runs(script):
  code, out, err = script("--train.num_epochs=3")
  assert (code, err) == (0, "") and "num_epochs=3" in out
  assert script("--dataset=seven")[0] == 7


def test_script_help_lists_every_flag_with_its_default(script):
  code, out, _ = script("--help")
  assert code == 0
  for words in ("Does a thing.", "--dataset: which data", "'ml-1m'", "--train.num_epochs: passes", "'200'", "debug"):
    assert words in out


@pytest.mark.parametrize(
  ("words", "code", "message"),
  [
    (["--datset=ml-1m"], 2, "Unknown flag --datset. Did you mean --dataset? See --help."),
    (["--num_epochs=3"], 2, "Unknown flag --num_epochs. Did you mean --train.num_epochs? See --help."),
    (["--train.num_epochs=x"], 2, "flag --train.num_epochs=x: expected int, got 'x'. See --help."),
    (["dataset=x"], 2, "Unexpected argument 'dataset=x'; flags are written --name=value. See --help."),
    (["--train.num_epochs=0"], 1, "Error: Expected num_epochs=0 > 0."),
    (["--dataset=missing"], 1, "Error: [Errno 2] No such file or directory: '/nowhere/file'"),
    (["--dataset=interrupt"], 130, "Interrupted: state saved; the same command resumes."),
    (
      ["--dataset=interrupt", "--overwrite"],
      130,
      "Interrupted: state saved; the same command resumes. Without --overwrite, which removes what is done.",
    ),
  ],
)
def test_script_failures_are_one_line(script, words, code, message):
  found, _, err = script(*words)
  assert (found, err.strip()) == (code, message)


def test_script_tracebacks(script):
  code, _, err = script("--dataset=missing", "--debug")
  assert code == 1 and "Traceback" in err
  code, _, err = script("--dataset=fault")
  assert code == 1 and "RuntimeError: ours" in err and "Traceback" in err


@pytest.fixture
def interruptible():
  """A shell starts what runs in the background with SIGINT ignored, and so is what the tests start."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_while_a_script_imports_ends_it_without_a_word(tmp_path):
  # A stand-in for absl, which every script imports first, presses Ctrl-C.
  (tmp_path / "absl.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(3)\n")
  done = subprocess.run(
    [sys.executable, "-m", "experiments.fit"], cwd=Path(_flags.__file__).parents[1], env={"PYTHONPATH": str(tmp_path)},
    capture_output=True, text=True, timeout=120, check=False,
  )  # fmt: skip
  assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_after_the_imports_is_told_in_a_line():
  script = """
    import os, signal, sys
    sys.argv = ["-m"]  # as while `python -m experiments.NAME` imports the package
    import experiments
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    from experiments import _flags
    _flags.run(lambda words: os.kill(os.getpid(), signal.SIGINT))
  """
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(script)], env={"PYTHONPATH": str(Path(_flags.__file__).parents[1])},
    capture_output=True, text=True, timeout=120, check=False,
  )  # fmt: skip
  assert (done.returncode, done.stderr.strip()) == (130, "Interrupted: state saved; the same command resumes.")
