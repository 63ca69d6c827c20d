"""Drawing in SVG text: elements, scales with round ticks.

Pure Python; equal input gives equal text. Everything that comes from outside is escaped in `tag` and `text`.
"""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
import unicodedata
from collections.abc import Iterable, Sequence

FONT = 12.0  # size of text, in units of the view box
LINE = 14.0  # height of a line of text

Box = tuple[float, float, float, float]  # left, top, right, bottom


def num(value: float) -> str:
  """A coordinate with one decimal at most."""
  return f"{round(value, 1) + 0.0:.6g}"  # + 0.0: no "-0"


def tag(name: str, content: str = "", **attributes: object) -> str:
  """An element; `content` is markup already, attributes are escaped, `stroke_width` is written stroke-width."""
  written = "".join(
    f' {key.strip("_").replace("_", "-")}="{html.escape(num(value) if isinstance(value, float) else str(value))}"'
    for key, value in attributes.items()
    if value is not None
  )
  return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def text(x: float, y: float, content: str, **attributes: object) -> str:
  """Text on a baseline, escaped."""
  return tag("text", html.escape(content) or " ", x=float(x), y=float(y), **attributes)


def text_width(content: str, size: float = FONT) -> float:
  """An upper guess of the width of text in a sans-serif font."""
  width = 0.0
  for char in content:
    if unicodedata.combining(char):
      continue
    if unicodedata.east_asian_width(char) in "WF":
      width += 1.05
    elif char.isupper():
      width += 0.86 if char in "MW" else 0.7
    elif char in " .,:;'|!ijlI[]()·":
      width += 0.34
    else:
      width += 0.86 if char in "mw" else 0.59
  return width * size


def shorten(content: str, width: float, size: float = FONT) -> str:
  """`content`, its end replaced by … where it is wider than `width`."""
  if text_width(content, size) <= width:
    return content
  kept = content
  while kept and text_width(kept + "…", size) > width:
    kept = kept[:-1]
  return kept + "…"


@dataclasses.dataclass(frozen=True)
class Axis:
  """A scale from values `low` … `high` to pixels `start` … `end`, linear or logarithmic."""

  low: float
  high: float
  start: float
  end: float
  log: bool = False

  def at(self, value: float) -> float:
    """The pixel of a value; of one outside of the scale, that of the nearer end."""
    value = min(max(value, self.low), self.high)
    if self.log:
      share = math.log(value / self.low) / math.log(self.high / self.low)
    else:
      share = (value - self.low) / (self.high - self.low)
    return self.start + share * (self.end - self.start)

  def ticks(self, count: int = 5) -> list[tuple[float, str]]:
    """Round values inside the scale with their text: about `count` of them, on a log scale powers of ten or 1, 2, 5."""
    return _log_ticks(self.low, self.high, count) if self.log else _linear_ticks(self.low, self.high, count)


def axis(
  values: Iterable[float], start: float, end: float, *, log: bool = False, zero: bool = False, margin: float = 0.06
) -> Axis:
  """The scale that holds all finite values (on a log scale: all positive ones), with a margin at both ends.

  With `zero`, a linear scale of values ≥ 0 starts at 0 exactly.
  """
  held = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
  low, high = (min(held), max(held)) if held else (1.0, 2.0)
  if log:
    factor = (high / low) ** margin if high > low else 2.0
    return Axis(low / factor, high * factor, start, end, log=True)
  if zero:
    low, high = min(low, 0.0), max(high, 0.0)
  room = (high - low) * margin if high > low else abs(low) * 0.1 or 1.0
  return Axis(0.0 if zero and low == 0 else low - room, high + room, start, end)


def _linear_ticks(low: float, high: float, count: int) -> list[tuple[float, str]]:
  rough = (high - low) / max(count, 1)
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(base * power for base in (1, 2, 5, 10) if base * power >= rough * (1 - 1e-9))
  digits = max(0, -math.floor(math.log10(step) + 1e-9))
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  values = [round(index * step, digits + 2) for index in range(first, last + 1)]
  plain = digits <= 6 and abs(high) < 1e7
  return [(value, f"{value + 0.0:,.{digits}f}" if plain else f"{value:.4g}") for value in values]


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _log_ticks(low: float, high: float, count: int) -> list[tuple[float, str]]:
  first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
  inside = [power for power in range(first, last + 1) if low <= 10.0**power <= high]
  every = max(1, math.ceil(len(inside) / (count + 2)))
  bases = (1,) if len(inside) >= 3 else (1, 2, 5)
  found = []
  for power, base in itertools.product(range(first, last + 1), bases):
    value = base * 10.0**power
    if low <= value <= high and power % every == 0:
      exponent = f"10{str(power).translate(_RAISED)}"
      written = f"{value:,.{max(0, -power)}f}" if -4 <= power < 5 else exponent if base == 1 else f"{base}·{exponent}"
      found.append((value, written))
  return found if len(found) >= 2 else _linear_ticks(low, high, count)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
  """Positions near the wanted ones, in their order, `gap` apart or more (less where there is no room)."""
  if not wanted:
    return []
  order = sorted(range(len(wanted)), key=lambda index: (wanted[index], index))
  gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
  found = list(wanted)
  at = low - gap
  for index in order:
    at = found[index] = max(wanted[index], at + gap)
  at = high + gap
  for index in reversed(order):
    at = found[index] = min(found[index], at - gap)
  return found
