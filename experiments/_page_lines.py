"""Line plots of the page: a value against a number or against named choices, a series a line, with its spread."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments._page_labels import leader, place_labels
from experiments._page_plots import NUM_COLOURS, WIDTH, Figure, colour, error_bar, frame, svg
from experiments._page_svg import (
  LINE,
  Axis,
  Box,
  axis,
  num,
  shorten,
  spread,
  tag,
  text,
  text_width,
)
from experiments._results import plain

KEYS = ("title", "x_label", "y_label", "series")
_OPTIONAL = ("x_scale", "y_scale", "note", "heading")
_MANY = 20  # from so many points on, the spread is a band, not bars
_DASHES = (None, "6 3", "2 3", "8 3 2 3")


@dataclasses.dataclass(frozen=True)
class _Series:
  name: str
  x: list[float]
  y: list[float]
  sd: list[float]
  joined: bool = True


def check(curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """`curves` with JSON types only.

  Args:
    curves: for each plot {"title", "x_label", "y_label", "series": [{"name", "x", "y"}]} and, if wanted, "x_scale" and
      "y_scale" ("linear" or "log"), "note" (said below it) and "heading" (plots with the same one stand together). A
      series may have "sd", and "joined": false for points without a line. x, y and sd are lists of one length; x holds
      numbers, or texts in all series; None in y is a gap.

  Raises:
    ValueError: something is missing, unknown or of another length; the message names the plot.
  """
  checked = plain(list(curves))
  for index, curve in enumerate(checked):
    where = f"curves[{index}]"
    if not isinstance(curve, dict) or any(key not in curve for key in KEYS):
      raise ValueError(f"Expected {where} to be an object with {', '.join(KEYS)}, got {curve!r:.80}.")
    where += f" ({curve['title']!r:.60})"
    unknown = [key for key in curve if key not in (*KEYS, *_OPTIONAL)]
    if unknown:
      raise ValueError(f"Unknown in {where}: {', '.join(unknown)}; known are {', '.join((*KEYS, *_OPTIONAL))}.")
    for key in ("x_scale", "y_scale"):
      if curve.get(key, "linear") not in ("linear", "log"):
        raise ValueError(f"Expected {key} of {where} to be linear or log, got {curve[key]!r}.")
    if not isinstance(curve["series"], list):
      raise ValueError(f"Expected series of {where} to be a list, got {curve['series']!r:.80}.")
    for one in curve["series"]:
      _check_series(one, where)
    values = [value for one in curve["series"] for value in one["x"]]
    if len({isinstance(value, str) for value in values}) > 1:
      raise ValueError(f"Expected x of {where} to be numbers only or texts only, got both.")
  return checked


def _check_series(one: Any, where: str) -> None:
  if not isinstance(one, dict) or any(key not in one for key in ("name", "x", "y")):
    raise ValueError(f"Expected every series of {where} to have name, x and y, got {one!r:.80}.")
  if not isinstance(one.get("joined", True), bool):
    raise ValueError(f"Expected joined of series {one['name']!r:.60} of {where} to be a bool, got {one['joined']!r}.")
  parts = {key: one[key] for key in ("x", "y", "sd") if one.get(key) is not None}
  if not all(isinstance(part, list) for part in parts.values()) or len({len(part) for part in parts.values()}) > 1:
    raise ValueError(f"Expected lists of one length in series {one['name']!r:.60} of {where}, got {one!r:.120}.")
  numbers = [value for key in ("y", "sd") for value in parts.get(key, [])]
  numbers += [value for value in parts["x"] if not isinstance(value, str)]
  if not all(value is None or isinstance(value, int | float) for value in numbers):
    raise ValueError(f"Expected numbers or null in series {one['name']!r:.60} of {where}, got {one!r:.120}.")


def _float(value: Any) -> float:
  return math.nan if value is None else float(value)


def draw(curve: Mapping[str, Any]) -> Figure:
  """A plot from what `check` returns. Series without a point that can be drawn are named in the caption."""
  logs = curve.get("x_scale") == "log", curve.get("y_scale") == "log"
  choices = list(dict.fromkeys(v for one in curve["series"] for v in one["x"] if isinstance(v, str)))
  series, empty = [], []
  for index, one in enumerate(curve["series"]):
    if choices:  # beside each other, so that error bars do not hide each other
      shift = (index - (len(curve["series"]) - 1) / 2) * 0.5 / len(curve["series"])
      x = [choices.index(value) + shift for value in one["x"]]
    else:
      x = [_float(value) for value in one["x"]]
    y = [_float(value) for value in one["y"]]
    sd = [_float(value) for value in one.get("sd") or [None] * len(y)]
    seen = [
      math.isfinite(a) and math.isfinite(b) and (a > 0 or not logs[0]) and (b > 0 or not logs[1])
      for a, b in zip(x, y, strict=True)
    ]
    y = [b if is_seen else math.nan for b, is_seen in zip(y, seen, strict=True)]
    series.append(_Series(str(one["name"]), x, y, sd, one.get("joined", True) and not choices))
    if not any(seen):
      empty.append(str(one["name"]))
  caption = str(curve.get("note") or "")
  if empty:
    caption += (" " if caption else "") + f"Without a value to draw: {', '.join(empty)}."
  if any(math.isfinite(value) for one in series for value in one.sd):
    caption += (" " if caption else "") + "Bars and bands are one sd."
  return Figure(_drawing(curve, series, choices, logs), caption)


def _drawing(
  curve: Mapping[str, Any], series: Sequence[_Series], choices: Sequence[str], logs: tuple[bool, bool]
) -> str:
  drawn = [one for one in series if any(math.isfinite(value) for value in one.y)]
  room = min(max((text_width(one.name) for one in drawn), default=0.0) + 20, 130.0)
  beside = _drawing_of(curve, series, drawn, choices, logs, max(room, 14.0))
  return beside or _drawing_of(curve, series, drawn, choices, logs, 0.0) or ""


def _drawing_of(
  curve: Mapping[str, Any], series: Sequence[_Series], drawn: Sequence[_Series], choices: Sequence[str],
  logs: tuple[bool, bool], room: float,
) -> str | None:  # fmt: skip
  """The drawing with the names right of the last points; None where these are too close to each other for that, or
  where points are not joined.

  With room 0 each name is in the plot, near the point of its line that is farthest from the other lines.
  """
  left, top, right = 56.0, 30.0, WIDTH - (room or 14.0)
  bottom = top + max(220.0, LINE * len(drawn))
  spans = [
    value
    for one in drawn
    for y, sd in zip(one.y, one.sd, strict=True)
    for value in ((y, y - sd, y + sd) if math.isfinite(sd) else (y,))
  ]
  y = axis([v for v in spans if v > 0] if logs[1] else spans, bottom, top, log=logs[1])
  ticks = None
  if choices:
    x = Axis(-0.5, len(choices) - 0.5, left, right)
    slot = (right - left) / len(choices)
    ticks = [(float(index), shorten(str(choice), slot - 2)) for index, choice in enumerate(choices)]
  else:
    known = [a for one in drawn for a, b in zip(one.x, one.y, strict=True) if math.isfinite(b)]
    x = axis(known, left, right, log=logs[0], margin=0.03)
    ticks = _own_ticks(x, sorted(set(known)))
  labels = [str(curve[f"{name}_label"]) + (", log scale" if log else "") for name, log in zip("xy", logs, strict=True)]
  parts = [frame(x, y, *labels, x_ticks=ticks)]
  paths = []
  for index, one in enumerate(drawn):
    inner, path = _one(one, x, y, index)
    paths.append(path)
    parts.append(tag("g", tag("title", html.escape(one.name)) + inner, class_=colour(index)))
  if room and not choices and not all(one.joined for one in drawn):
    return None
  ends = [path[-1] for path in paths]
  heights = spread([end[1] for end in ends], LINE, top + 4, bottom)
  if room and not choices and any(abs(end[1] - height) > 1.5 * LINE for end, height in zip(ends, heights, strict=True)):
    return None
  if not room:
    parts.append(_names_inside(drawn, paths, (left + 2, top, right + 12, bottom - 2)))
  for index, (one, end, height) in enumerate(zip(drawn, ends, heights, strict=True) if room else ()):
    line = f"M{num(end[0] + 5)} {num(end[1])}L{num(right + 3)} {num(height)}h8"
    parts.append(tag("g", tag("path", class_="leader own", d=line), class_=colour(index)))
    parts.append(text(right + 14, height + 4, shorten(one.name, WIDTH - right - 14), class_="label"))
  names = ", ".join(one.name for one in series)
  return svg(bottom + 40, "".join(parts), f"{curve['title']}: {names}")


def _own_ticks(x: Axis, values: Sequence[float]) -> list[tuple[float, str]] | None:
  """The values themselves as ticks, where they are few and apart: 5, 10, 20, 40 shards; else None."""
  named = [(value, f"{value:g}") for value in values]
  ends = [(x.at(value) - text_width(name) / 2 - 3, x.at(value) + text_width(name) / 2 + 3) for value, name in named]
  apart = all(before[1] <= after[0] for before, after in zip(ends, ends[1:], strict=False))
  return named if 1 < len(named) <= 8 and apart else None


_DASH = 16.0  # a piece of the line in front of its name


def _names_inside(drawn: Sequence[_Series], paths: Sequence[Sequence[tuple[float, float]]], bounds: Box) -> str:
  dense = [_every(path, 4.0) for path in paths]
  parts, wanted, names = [], [], []
  for index, (one, path) in enumerate(zip(drawn, dense, strict=True)):
    others = [point for other, points in enumerate(dense) if other != index for point in points] or path
    apart = np.array(path)[:, None] - np.array(others)[None]
    x, y = path[int(np.argmax(np.hypot(apart[..., 0], apart[..., 1]).min(1)))]  # of equal ones the first
    names.append(shorten(one.name, 160.0))
    wanted.append((x, y, 2.0, _DASH + text_width(names[-1])))
  obstacles = [(x - 2, y - 2, x + 2, y + 2) for path in dense for x, y in path]
  for index, (place, name, (x, y, radius, _)) in enumerate(
    zip(place_labels(wanted, obstacles, bounds), names, wanted, strict=True)
  ):
    middle = (place[1] + place[3]) / 2
    line = leader(x, y, radius, place)
    drawn_leader = "" if line is None else tag("path", class_="leader own", d="M{} {}L{} {}".format(*map(num, line)))
    dash = tag(
      "path", class_="line", d=f"M{num(place[0])} {num(middle)}h{num(_DASH - 4)}", stroke_dasharray=_dashes(index)
    )
    parts.append(tag("g", drawn_leader + dash, class_=colour(index)))
    parts.append(text(place[0] + _DASH, place[1] + LINE - 3, name, class_="label"))
  return "".join(parts)


def _every(path: Sequence[tuple[float, float]], step: float) -> list[tuple[float, float]]:
  """Points along a path, about `step` apart."""
  found = [path[0]]
  for (x, y), (to_x, to_y) in zip(path, path[1:], strict=False):
    count = int(math.dist((x, y), (to_x, to_y)) // step)
    found += [(x + (to_x - x) * k / (count + 1), y + (to_y - y) * k / (count + 1)) for k in range(1, count + 1)]
    if math.dist(found[-1], (to_x, to_y)) >= step / 2:
      found.append((to_x, to_y))
  return found


def _dashes(index: int) -> str | None:
  """How the line of a series is dashed: other than that of the same colour before it."""
  return _DASHES[index // NUM_COLOURS % len(_DASHES)]


def _one(one: _Series, x: Axis, y: Axis, index: int) -> tuple[str, list[tuple[float, float]]]:
  """The marks of a series, and the pixels of its points."""
  points = [
    (x.at(a), y.at(b), y.at(b + sd), y.at(b - sd)) if math.isfinite(a) and math.isfinite(b) else None
    for a, b, sd in ((a, b, sd if math.isfinite(sd) else 0.0) for a, b, sd in zip(one.x, one.y, one.sd, strict=True))
  ]
  runs = _runs(points)
  seen = [point for run in runs for point in run]
  parts = []
  many = len(seen) > _MANY
  spread_known = any(math.isfinite(sd) for sd in one.sd)
  if one.joined:
    for run in runs:
      path = "M" + "L".join(f"{num(px)} {num(py)}" for px, py, _, _ in run)
      if many and spread_known:
        around = [(px, high) for px, _, high, _ in run] + [(px, low) for px, _, _, low in reversed(run)]
        parts.append(tag("path", class_="spread", d="M" + "L".join(f"{num(a)} {num(b)}" for a, b in around) + "Z"))
      parts.append(tag("path", class_="line", d=path, stroke_dasharray=_dashes(index)))
  if not many or not one.joined:
    for px, py, high, low in seen:
      parts.append(tag("circle", class_="dot", cx=px, cy=py, r=3.0))
      if high != low:
        parts.append(error_bar(px, high, low))
  return "".join(parts), [(px, py) for px, py, _, _ in seen]


_Drawn = tuple[float, float, float, float]


def _runs(points: Sequence[_Drawn | None]) -> list[list[_Drawn]]:
  """Points between gaps, without those within half a pixel of the one before: a ROC curve has thousands."""
  runs: list[list[_Drawn]] = []
  before: _Drawn | None = None
  for index, point in enumerate(points):
    if point is None:
      before = None
      continue
    is_end = index + 1 == len(points) or points[index + 1] is None
    if before is None:
      runs.append([point])
    elif is_end or max(abs(a - b) for a, b in zip(point, runs[-1][-1], strict=True)) >= 0.5:
      runs[-1].append(point)
    before = point
  return runs
