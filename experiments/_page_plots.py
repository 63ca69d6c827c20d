"""The plots of the page, as SVG text: utility against forgetting with the cost as size, and values by method."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from experiments._names import display
from experiments._page_labels import leader, place_labels
from experiments._page_svg import (
  FONT,
  LINE,
  Axis,
  Box,
  axis,
  num,
  shorten,
  tag,
  text,
  text_width,
)
from experiments._report import Row, label

WIDTH = 380.0
NUM_COLOURS = 6
_LARGEST_RADIUS, _LEAST_RADIUS = 17.0, 3.5
_NEAR = 0.05  # share of Retrain's utility within which a method is in the plot of what is near Retrain
_LOG_FROM = 30.0  # largest by smallest value from which a log scale is drawn


@dataclasses.dataclass(frozen=True)
class Figure:
  """A plot with what is said below it."""

  svg: str
  caption: str


def colour(index: int) -> str:
  """The CSS class of a series; of the reference, whose index is −1, a grey."""
  return "ref" if index < 0 else f"c{index % NUM_COLOURS}"


def seconds_text(value: float) -> str:
  """Seconds with about three digits and their unit."""
  return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f} s"


def frame(x: Axis, y: Axis, x_label: str, y_label: str, *, x_ticks: Sequence[tuple[float, str]] | None = None) -> str:
  """Grid, ticks and titles of both axes; the left and lower edge of the plot are the axes' ends."""
  parts = []
  for value, written in y.ticks():
    at = y.at(value)
    parts.append(tag("path", class_="grid", d=f"M{num(x.start)} {num(at)}H{num(x.end)}"))
    parts.append(text(x.start - 6, at + 4, written, class_="tick", text_anchor="end"))
  for value, written in x.ticks(4) if x_ticks is None else x_ticks:
    at = x.at(value)
    parts.append(tag("path", class_="grid", d=f"M{num(at)} {num(y.start)}V{num(y.end)}"))
    parts.append(text(at, y.start + 15, written, class_="tick", text_anchor="middle"))
  parts.append(tag("path", class_="axis", d=f"M{num(x.start)} {num(y.end)}V{num(y.start)}H{num(x.end)}"))
  parts.append(text((x.start + x.end) / 2, y.start + 32, x_label, class_="name", text_anchor="middle"))
  parts.append(text(4, y.end - 10, y_label, class_="name"))
  return "".join(parts)


def svg(height: float, content: str, name: str) -> str:
  """The drawing with its name for those who cannot see it."""
  box = f"0 0 {num(WIDTH)} {num(height)}"
  return tag("svg", content, viewBox=box, role="img", aria_label=name, class_="plot")


def error_bar(at: float, low: float, high: float, *, across: bool = False) -> str:
  """From low to high with caps, upright or across; all in pixels."""
  a, b, at_, cap = num(low), num(high), num(at), 3
  if across:
    d = f"M{a} {at_}H{b}M{a} {num(at - cap)}v{2 * cap}M{b} {num(at - cap)}v{2 * cap}"
  else:
    d = f"M{at_} {a}V{b}M{num(at - cap)} {a}h{2 * cap}M{num(at - cap)} {b}h{2 * cap}"
  return tag("path", class_="error", d=d)


@dataclasses.dataclass(frozen=True)
class _Point:
  row: Row
  x: float
  x_sd: float
  y: float
  y_sd: float
  cost: float  # seconds; NaN: not known


def _finite(value: float) -> float:
  return value if math.isfinite(value) else 0.0


def utility_of(rows: Sequence[Row]) -> str | None:
  """NDCG@20, else the first utility there is; None where there is none."""
  known = [name for row in rows for name, values in row.values.items() if name.startswith("utility.") and values]
  return "utility.ndcg@20" if "utility.ndcg@20" in known else min(known, default=None)


def pareto(rows: Sequence[Row], colours: Mapping[str, int]) -> list[Figure]:
  """Utility against |AUC − Retrain's AUC|, or against seconds where no AUC is known; a second plot near Retrain.

  Circle area is seconds. Nothing is drawn of fewer than two methods. The second plot holds what is within 5 % of
  Retrain's utility, where others are farther.
  """
  utility = utility_of(rows)
  if utility is None:
    return []
  by_distance = any(math.isfinite(row.mean_sd("completeness.auc_distance")[0]) for row in rows)
  points, absent = [], []
  for row in rows:
    x, x_sd = row.mean_sd("completeness.auc_distance" if by_distance else "efficiency.seconds")
    if by_distance and row.method == "retrain":
      x, x_sd = 0.0, math.nan
    y, y_sd = row.mean_sd(utility)
    if math.isfinite(x) and math.isfinite(y) and (by_distance or x > 0):
      points.append(_Point(row, x, x_sd, y, y_sd, row.mean_sd("efficiency.seconds")[0]))
    else:
      absent.append(display(row.method))
  if len(points) < 2:
    return []
  reference = next((row for row in rows if row.method == "retrain"), None)
  figures = [_pareto(points, reference, utility, by_distance, colours, absent, "")]
  target = reference.mean_sd(utility)[0] if reference else math.nan
  near = [point for point in points if abs(point.y - target) <= _NEAR * abs(target)]
  if 1 < len(near) < len(points):
    figures.append(_pareto(near, reference, utility, by_distance, colours, [], "near Retrain: "))
  return figures


def _pareto(
  points: Sequence[_Point], reference: Row | None, utility: str, by_distance: bool,
  colours: Mapping[str, int], absent: Sequence[str], prefix: str,
) -> Figure:  # fmt: skip
  left, top, right = 52.0, 30.0, WIDTH - 14
  bottom = top + 232 + LINE * max(0, len(points) - 8)
  target, target_sd = reference.mean_sd(utility) if reference else (math.nan, math.nan)
  shown = [value for p in points for value in (p.y - _finite(p.y_sd), p.y + _finite(p.y_sd))]
  shown += [target - _finite(target_sd), target + _finite(target_sd)]
  y = axis(shown, bottom, top, margin=0.1)
  spans = [value for p in points for value in (p.x, p.x + _finite(p.x_sd), p.x - _finite(p.x_sd))]
  if by_distance:
    high = max(*spans, 1e-6)
    x = Axis(-0.06 * high, 1.08 * high, left, right)  # room for the circle of Retrain, at 0
    ticks = [tick for tick in x.ticks(5) if tick[0] >= 0]
  else:
    x = axis(spans, left, right, log=True, margin=0.1)
    ticks = x.ticks(4)
  x_label = "|AUC − Retrain's AUC|, less is better" if by_distance else "seconds, log scale, less is better"
  parts = [_band(reference, utility, x, y, by_distance)]
  parts.append(frame(x, y, x_label, f"{label(utility)}, more is better", x_ticks=ticks))
  largest = max((p.cost for p in points if math.isfinite(p.cost)), default=math.nan)
  marks: list[tuple[_Point, float, float, float]] = []
  obstacles: list[Box] = []
  for p in points:
    radius = _LEAST_RADIUS
    if math.isfinite(p.cost) and largest > 0:
      radius = max(_LEAST_RADIUS, _LARGEST_RADIUS * math.sqrt(max(p.cost, 0.0) / largest))
    at_x, at_y = x.at(p.x), y.at(p.y)
    marks.append((p, at_x, at_y, radius))
    obstacles.append((at_x - radius, at_y - radius, at_x + radius, at_y + radius))
    if math.isfinite(p.y_sd):
      obstacles.append((at_x - 2, y.at(p.y + p.y_sd), at_x + 2, y.at(p.y - p.y_sd)))
    if math.isfinite(p.x_sd):
      obstacles.append((x.at(p.x - p.x_sd), at_y - 2, x.at(p.x + p.x_sd), at_y + 2))
  for p, at_x, at_y, radius in sorted(marks, key=lambda mark: -mark[3]):  # small circles on top
    bars = error_bar(at_x, y.at(p.y + p.y_sd), y.at(p.y - p.y_sd)) if math.isfinite(p.y_sd) else ""
    if math.isfinite(p.x_sd):
      least = max(p.x - p.x_sd, 0.0 if by_distance else x.low)
      bars += error_bar(at_y, x.at(least), x.at(p.x + p.x_sd), across=True)
    known = "" if math.isfinite(p.cost) else " hollow"
    circle = tag("circle", class_="mark" + known, cx=at_x, cy=at_y, r=radius)
    parts.append(tag("g", circle + bars, class_=colour(colours[p.row.method])))
  marks.sort(key=lambda mark: mark[3])  # small circles get the near places: they lie on and beside larger ones
  names = [display(p.row.method) + (f" · {seconds_text(p.cost)}" if math.isfinite(p.cost) else "") for p, *_ in marks]
  names = [shorten(name, right - left - 40) for name in names]
  wanted = [(at_x, at_y, r, text_width(name)) for (_, at_x, at_y, r), name in zip(marks, names, strict=True)]
  places = place_labels(wanted, obstacles, (left + 2, top, right + 12, bottom - 2))
  lines = [leader(at_x, at_y, radius, place) for (_, at_x, at_y, radius), place in zip(marks, places, strict=True)]
  parts += [tag("path", class_="leader", d="M{} {}L{} {}".format(*map(num, line))) for line in lines if line]
  for (_, at_x, _, _), name, place in zip(marks, names, places, strict=True):
    near_left = place[2] <= at_x  # the text is drawn from the side of its circle, whatever width the font has
    anchor, start = ("end", place[2]) if near_left else ("start", place[0])
    parts.append(text(start, place[1] + FONT - 1, name, class_="label", text_anchor=anchor))
  what = "utility against distance to Retrain's AUC" if by_distance else "utility against seconds"
  caption = (prefix + what)[:1].upper() + (prefix + what)[1:] + ". Circle area and the number are seconds"
  caption += "; error bars are one sd over seeds." + _band_text(reference, utility, by_distance)
  caption += f" Not drawn, a value is missing: {', '.join(absent)}." if absent else ""
  return Figure(svg(bottom + 40, "".join(parts), f"{prefix}{what}: {', '.join(names)}"), caption)


def _band(reference: Row | None, utility: str, x: Axis, y: Axis, by_distance: bool) -> str:
  if reference is None:
    return ""
  mean, sd = reference.mean_sd(utility)
  parts = []
  if math.isfinite(mean) and math.isfinite(sd):
    top, bottom = y.at(mean + sd), y.at(mean - sd)
    parts.append(tag("rect", class_="band", x=x.start, y=top, width=x.end - x.start, height=max(bottom - top, 0.5)))
  if math.isfinite(mean):
    parts.append(tag("path", class_="reference", d=f"M{num(x.start)} {num(y.at(mean))}H{num(x.end)}"))
  auc_sd = reference.mean_sd("completeness.auc")[1]
  if by_distance and math.isfinite(auc_sd):
    width = max(x.at(auc_sd) - x.at(0.0), 0.5)
    parts.append(tag("rect", class_="band", x=x.at(0.0), y=y.end, width=width, height=y.start - y.end))
  return "".join(parts)


def _band_text(reference: Row | None, utility: str, by_distance: bool) -> str:
  if reference is None:
    return ""
  if not math.isfinite(reference.mean_sd(utility)[1]):
    return " The dashed line is Retrain's mean; of one seed no sd is known."
  return f" Bands: Retrain's mean {label(utility)} ± sd" + (
    ", and the sd of its AUC from 0."
    if by_distance and math.isfinite(reference.mean_sd("completeness.auc")[1])
    else "."
  )


def by_method(
  rows: Sequence[Row], metric: str, x_label: str, caption: str, colours: Mapping[str, int]
) -> Figure | None:
  """One value a method with its error bar: bars from 0 for seconds, or dots on a log scale where they differ much.

  Other metrics are dots, and Retrain's mean ± sd is drawn through all rows. None where fewer than two methods
  have the value.
  """
  known = [(row, *row.mean_sd(metric)) for row in rows if math.isfinite(row.mean_sd(metric)[0])]
  if len(known) < 2:
    return None
  seconds = metric.startswith("efficiency.")
  positive = [mean for _, mean, _ in known if mean > 0]
  log = seconds and len(positive) == len(known) and max(positive) > _LOG_FROM * min(positive)
  step, top, left, right = 34.0, 8.0, 8.0, WIDTH - 14
  bottom = top + step * len(known)
  spans = [value for _, mean, sd in known for value in (mean, mean - _finite(sd), mean + _finite(sd))]
  if log:  # a spread below 0 has no place there; the bar is drawn to the end of the scale
    spans = positive + [value for value in spans if value >= min(positive) / 2]
  elif seconds:
    spans = [max(value, 0.0) for value in spans]
  x = axis(spans, left, right, log=log, zero=seconds and not log)
  parts = [tag("path", class_="grid", d=f"M{num(x.at(v))} {num(top)}V{num(bottom)}") for v, _ in x.ticks()]
  parts += [text(x.at(v), bottom + 15, written, class_="tick", text_anchor="middle") for v, written in x.ticks()]
  reference = next(((mean, sd) for row, mean, sd in known if row.method == "retrain"), None)
  if reference is not None and not seconds:
    mean, sd = reference
    if math.isfinite(sd):
      low, high = x.at(mean - sd), x.at(mean + sd)
      parts.append(tag("rect", class_="band", x=low, y=top, width=max(high - low, 0.5), height=bottom - top))
    parts.append(tag("path", class_="reference", d=f"M{num(x.at(mean))} {num(top)}V{num(bottom)}"))
  for index, (row, mean, sd) in enumerate(known):
    at, y = x.at(mean), top + step * index + 24
    parts.append(tag("path", class_="grid", d=f"M{num(left)} {num(y - 24)}H{num(right)}"))
    if seconds and not log:
      drawn = tag("rect", class_="bar", x=x.start, y=y - 4, width=max(at - x.start, 0.5), height=8.0)
    else:
      drawn = tag("circle", class_="dot", cx=at, cy=y, r=4.5)
    drawn += error_bar(y, x.at(mean - sd), x.at(mean + sd), across=True) if math.isfinite(sd) else ""
    value = seconds_text(mean) if seconds else f"{mean:.4f}"
    name = shorten(f"{display(row.method)} · {value}", right - left)
    parts.append(tag("g", drawn, class_=colour(colours[row.method])))
    parts.append(text(left, y - 11, name, class_="label"))
  parts.append(tag("path", class_="axis", d=f"M{num(left)} {num(bottom)}H{num(right)}"))
  name = x_label + (", log scale" if log else "")
  parts.append(text((left + right) / 2, bottom + 32, name, class_="name", text_anchor="middle"))
  return Figure(svg(bottom + 40, "".join(parts), f"{x_label} by method"), caption)
