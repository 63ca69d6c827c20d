"""Command-line flags from configs, and the way every script starts and ends.

`build = define("train", TrainConfig())` makes one absl flag a field (`--train.num_epochs=…`), with the field's comment
as help text; `build()` gives a fresh config after parsing. `run(main)` parses and turns failures into one line.

Exit codes: 0 done, 1 the work failed (ValueError, OSError), 2 the command line is wrong, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import io
import signal
import sys
import textwrap
import tokenize
import traceback
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from absl import app, flags, logging

Config = TypeVar("Config")

flags.disclaim_key_flags()  # flags belong to the script that defines them, so that its --help lists them

_NONE = ("none", "null")


class _Parser(flags.ArgumentParser[Any]):
  """Text to the type of a field: int, float, str, bool, a tuple (comma separated), a Literal; None where it may be."""

  def __init__(self, hint: Any) -> None:
    self.hint = hint
    self.syntactic_help = ""

  def parse(self, argument: Any) -> Any:
    """The value; ValueError says what was expected."""
    return _parse(argument, self.hint) if isinstance(argument, str) else argument

  def flag_type(self) -> str:
    """The type's name for --help."""
    return _type_name(self.hint)


class _Serializer(flags.ArgumentSerializer[Any]):
  """The inverse of `_Parser`."""

  def serialize(self, value: Any) -> str:
    """Text that parses to `value`."""
    if isinstance(value, tuple):
      return ",".join(map(str, value))
    return "none" if value is None else str(value)


def _is_union(hint: Any) -> bool:
  return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _type_name(hint: Any) -> str:
  if _is_union(hint):
    return " or ".join(_type_name(part) for part in typing.get_args(hint))
  if typing.get_origin(hint) is tuple:
    return f"comma separated {_type_name(typing.get_args(hint)[0])}"
  if typing.get_origin(hint) is typing.Literal:
    return "|".join(map(str, typing.get_args(hint)))
  return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _supported(hint: Any) -> bool:
  parts = [part for part in typing.get_args(hint) if part is not ...]
  if _is_union(hint) or typing.get_origin(hint) is tuple:
    return bool(parts) and all(_supported(part) for part in parts)
  return typing.get_origin(hint) is typing.Literal or hint in (int, float, bool, str, type(None))


def _parse(text: str, hint: Any) -> Any:
  if _is_union(hint):
    parts = typing.get_args(hint)
    if type(None) in parts and text.lower() in _NONE:
      return None
    for part in (part for part in parts if part is not type(None)):
      try:
        return _parse(text, part)
      except ValueError:
        continue
    raise ValueError(f"expected {_type_name(hint)}, got {text!r}")
  if typing.get_origin(hint) is tuple:
    parts, items = typing.get_args(hint), [item.strip() for item in text.strip("()").split(",") if item.strip()]
    if parts[-1] is ...:
      return tuple(_parse(item, parts[0]) for item in items)
    if len(items) != len(parts):
      raise ValueError(f"expected {len(parts)} values with commas between them, got {text!r}")
    return tuple(_parse(item, part) for item, part in zip(items, parts, strict=True))
  if typing.get_origin(hint) is typing.Literal:
    for choice in typing.get_args(hint):
      if text == str(choice):
        return choice
    raise ValueError(f"expected {_type_name(hint)}, got {text!r}")
  if hint is bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
      raise ValueError(f"expected true or false, got {text!r}")
    return text.lower() in ("true", "1", "yes")
  try:
    return hint(text)
  except ValueError:
    raise ValueError(f"expected {_type_name(hint)}, got {text!r}") from None


def field_comments(cls: type) -> dict[str, str]:
  """The comment of each field of a dataclass: at the end of its lines, else on the lines above it.

  Fields of base classes are found in their own source. Where there is no source, the dict is empty.
  """
  comments: dict[str, str] = {}
  for base in reversed(cls.__mro__):
    if dataclasses.is_dataclass(base):
      try:
        comments.update(_source_comments(textwrap.dedent(inspect.getsource(base))))
      except (OSError, TypeError, tokenize.TokenError, IndentationError):
        continue
  return comments


def _source_comments(source: str) -> dict[str, str]:
  comments: dict[str, str] = {}
  names: list[str] = []  # names of the statement at hand: a field is `name : …`
  above: list[str] = []
  beside: list[str] = []
  depth = 0
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    depth += (token.type == tokenize.INDENT) - (token.type == tokenize.DEDENT)
    if depth != 1:
      continue
    if token.type == tokenize.COMMENT:
      (beside if names else above).append(token.string.lstrip("# "))
    elif token.type == tokenize.NEWLINE:
      if len(names) > 1 and names[1] == ":":
        comments[names[0]] = " ".join(beside or above)
      names, above, beside = [], [], []
    elif token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
      names.append(token.string)
  return comments


def _read(flag_values: flags.FlagValues, flag: str) -> Any:
  return flag_values[flag].value


def define(
  name: str, config: Config, *, without: Sequence[str] = (), flag_values: flags.FlagValues = flags.FLAGS
) -> Callable[[], Config]:
  """Makes a flag `--name.field` for each field of a dataclass, its value in `config` being the default.

  Fields of type int, float, bool, str, Literal, tuples of these, and each of them or None become flags; a field that is
  itself a dataclass is defined as `--name.field.…`; any other keeps its value in `config`. Help text: the
  field's metadata["help"], else its comment in the source.

  Args:
    name: prefix; "" for none.
    config: an instance of a dataclass.
    without: fields that get no flag, since something else decides them.
    flag_values: where to define them; for tests.

  Returns:
    A function without arguments: the config from the parsed flags. What `__post_init__` raises passes through.
  """
  cls: Any = type(config)
  hints, comments = typing.get_type_hints(cls), field_comments(cls)
  prefix = f"{name}." if name else ""
  readers: dict[str, Callable[[], Any]] = {}
  for field in dataclasses.fields(cls):
    if not field.init or field.name in without:
      continue
    flag, default, hint = prefix + field.name, getattr(config, field.name), hints[field.name]
    text = field.metadata.get("help") or comments.get(field.name) or f"{field.name} of {cls.__name__}"
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
      readers[field.name] = define(flag, default, flag_values=flag_values)
      continue
    if not _supported(hint):
      continue
    if hint is bool:
      flags.DEFINE_boolean(flag, default, text, flag_values=flag_values)
    else:
      if default is None:
        text += " (default: none)"
      flags.DEFINE(_Parser(hint), flag, default, text, flag_values=flag_values, serializer=_Serializer())
    readers[field.name] = functools.partial(_read, flag_values, flag)

  def build() -> Config:
    return dataclasses.replace(typing.cast(Any, config), **{key: read() for key, read in readers.items()})

  return build


def parse_fields(config: Any, text: str) -> dict[str, Any]:
  """ "hops=2+step=1.5" to {"hops": 2, "step": 1.5}, values by the types of the dataclass's fields.

  A field of a field that is itself a dataclass is named with a dot, as its flag is: "aggregate.l2=0.5".

  Raises:
    ValueError: not `field=value`, no such field, a field twice, or a value of another type.
  """
  hints = _dotted_hints(config)
  found: dict[str, Any] = {}
  for part in text.split("+"):
    name, equals, value = part.partition("=")
    if not equals or name not in hints or name in found:
      raise ValueError(
        f"Expected field=value+field=value… with fields of {', '.join(hints)}, each once, got {part!r} in {text!r}."
      )
    try:
      found[name] = _parse(value, hints[name])
    except ValueError as error:
      raise ValueError(f"{part!r} in {text!r}: {error}") from None
  return found


def _dotted_hints(config: Any) -> dict[str, Any]:
  """{"field" or "field.field": type} of all fields that a flag can set."""
  hints: dict[str, Any] = {}
  for field in dataclasses.fields(config):
    value, hint = getattr(config, field.name), typing.get_type_hints(type(config))[field.name]
    if dataclasses.is_dataclass(value):
      hints |= {f"{field.name}.{name}": inner for name, inner in _dotted_hints(value).items()}
    elif _supported(hint):
      hints[field.name] = hint
  return hints


def suggest(flag: str, known: Sequence[str]) -> str | None:
  """The flag that `flag` was probably meant to be: the same last part, else the nearest spelling; or None."""
  last = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
  if flag.rsplit(".", 1)[-1] in last:
    return last[flag.rsplit(".", 1)[-1]]
  near = difflib.get_close_matches(flag, known, n=1) or difflib.get_close_matches(flag.rsplit(".", 1)[-1], last, n=1)
  return last.get(near[0], near[0]) if near else None


def _die(code: int, message: str) -> typing.NoReturn:
  print(message, file=sys.stderr)
  raise SystemExit(code)


def _help(module: Any) -> str:
  doc = (getattr(module, "__doc__", None) or "").strip()
  listed = flags.FLAGS.main_module_help()
  return f"{doc}\n\nFlags:\n{listed}\n" if doc else f"{listed}\n"


def _parser(positional: str) -> Callable[[list[str]], list[str]]:
  def parse(argv: list[str]) -> list[str]:
    before = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    if any(word in ("--help", "-help", "-h", "--helpshort") for word in before):
      print(_help(sys.modules["__main__"]), end="")
      raise SystemExit(0)
    try:
      rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
      hint = suggest(error.flagname, [name for name in flags.FLAGS if "." in name or len(name) > 2])
      meant = f" Did you mean --{hint}?" if hint else ""
      _die(2, f"Unknown flag --{error.flagname}.{meant} See --help.")
    except flags.Error as error:
      _die(2, f"{error}. See --help.")
    if len(rest) > 1 and not positional:
      _die(2, f"Unexpected argument {rest[1]!r}; flags are written --name=value. See --help.")
    return rest

  return parse


def run(
  main: Callable[[list[str]], int | None],
  *,
  positional: str = "",
  interrupted: str = "Interrupted: state saved; the same command resumes.",
) -> typing.NoReturn:
  """Parses the command line and calls `main(arguments)`, arguments being the words that are not flags.

  ValueError and OSError end in one line on standard error and exit code 1 (with --debug also the traceback), a wrong
  command line in exit code 2, Ctrl-C in `interrupted` and 130. Anything else is our fault and shows its traceback.

  Args:
    main: the script; what it returns is the exit code (None: 0).
    positional: what the words that are not flags mean; empty: there must be none.
    interrupted: said after Ctrl-C; say so where a script has nothing to resume from.
  """
  if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # so during the imports (experiments/__init__.py)
    signal.signal(signal.SIGINT, signal.default_int_handler)
  if "debug" not in flags.FLAGS:
    flags.DEFINE_boolean("debug", False, "show tracebacks of errors")

  def guarded(argv: list[str]) -> int | None:
    if not flags.FLAGS.debug:
      logging.set_verbosity(logging.WARNING)  # orbax tells every step of every save at INFO
    try:
      return main(argv[1:])
    except KeyboardInterrupt:
      anew = "overwrite" in flags.FLAGS and flags.FLAGS.overwrite
      _die(130, f"\n{interrupted}{' Without --overwrite, which removes what is done.' if anew else ''}")
    except (ValueError, OSError) as error:
      if flags.FLAGS.debug:
        traceback.print_exc()
      _die(1, f"Error: {' '.join(str(error).split())}")

  app.run(guarded, flags_parser=_parser(positional))
  raise SystemExit(0)
