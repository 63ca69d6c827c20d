"""The plot of a comparison; needs matplotlib (extra `plots`), which `_report.plot` imports through here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments._names import display
from experiments._report import Row, label, retrain_auc

_MARKERS = "osD^vP*X<>hp"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")  # told apart by most eyes

_NAMED = 6  # points that have their names beside them; of more, names would cover each other, and the legend has them
_LONGEST = 30  # letters of a name


def _finite(value: float) -> float:
  return value if math.isfinite(value) else 0.0


def short_names(methods: Sequence[str]) -> dict[str, str]:
  """How methods are written in a plot: a long variant is cut, and numbered where another one is cut to the same."""
  names: dict[str, str] = {}
  for method in methods:
    whole = display(method)
    name, number = whole if len(whole) <= _LONGEST else whole[: _LONGEST - 1] + "…", 1
    while name in names.values():
      number += 1
      name = f"{whole[: _LONGEST - 5]}… ({number})"
    names[method] = name
  return names


def _panel(axes: Axes, rows: Sequence[Row], utility: str, order: Sequence[str]) -> None:
  names, few = short_names(order), len(rows) <= _NAMED
  target = retrain_auc(rows, rows[0].dataset, rows[0].model)
  if target is not None:
    axes.axvline(target, color="0.35", linestyle="--", linewidth=1, zorder=1, label="Retrain's AUC")
  for row in rows:
    (x, x_sd), (y, y_sd) = row.mean_sd("completeness.auc"), row.mean_sd(utility)
    if not (math.isfinite(x) and math.isfinite(y)):
      continue
    at = order.index(row.method)
    axes.errorbar(
      x, y, xerr=_finite(x_sd), yerr=_finite(y_sd), fmt=_MARKERS[at % len(_MARKERS)], markersize=7, capsize=3,
      color=_COLOURS[at % len(_COLOURS)], label=names[row.method], zorder=3,
    )  # fmt: skip
    if few:
      axes.annotate(names[row.method], (x, y), textcoords="offset points", xytext=(7, 6), fontsize=8, zorder=4)
  axes.margins(0.18)
  axes.grid(alpha=0.25)
  axes.set_xlabel("completeness AUC (nearer to Retrain's is better)")
  axes.set_ylabel(f"{label(utility)} (higher is better)")
  heading = f"{rows[0].model}, {rows[0].dataset}"
  axes.set_title(heading + (f" (Retrain's AUC {target:.3f})" if target is not None else ""), fontsize=10)


def draw(rows: Sequence[Row], path: Path, utility: str, title: str) -> list[Path]:
  """Draws one panel for each (dataset, model) and writes `path`.png and `path`.svg."""
  places = list(dict.fromkeys((row.dataset, row.model) for row in rows))
  if not places:
    raise ValueError("Expected at least one result to plot.")
  order = list(dict.fromkeys(row.method for row in rows))
  wide = min(len(places), 3)
  tall = -(-len(places) // wide)
  longest = max(map(len, short_names(order).values()))
  columns = max(1, min(4, int(5.2 * wide / (0.5 + 0.066 * longest))))  # inches of a mark, and of a letter
  lines_of_legend = -(-(len(order) + 1) // columns)
  figure = Figure(figsize=(5.2 * wide, 4.4 * tall + 0.5 + 0.2 * lines_of_legend), layout="constrained")
  FigureCanvasAgg(figure)
  grid = figure.subplots(tall, wide, squeeze=False)
  for axes, place in zip(grid.flat, places, strict=False):
    _panel(axes, [row for row in rows if (row.dataset, row.model) == place], utility, order)
  for axes in list(grid.flat)[len(places) :]:
    axes.set_visible(False)
  handles: dict[str, Artist] = {}
  for axes in grid.flat:
    handles.update({name: mark for mark, name in zip(*axes.get_legend_handles_labels(), strict=True)})
  if handles:
    figure.legend(
      handles.values(), list(handles), loc="outside lower center", ncols=min(columns, len(handles)), fontsize=8
    )
  if title:
    figure.suptitle(title)
  return _save(figure, path)


def _save(figure: Figure, path: Path) -> list[Path]:
  path.parent.mkdir(parents=True, exist_ok=True)
  written = [path.with_name(path.name + ending) for ending in (".png", ".svg")]
  for file in written:
    figure.savefig(file, dpi=160)
  return written


def scatter(
  panels: Sequence[tuple[str, Sequence[float], Sequence[float]]], path: Path, x_label: str, y_label: str
) -> list[Path]:
  """A panel of points for each (title, x, y), with the line of equality; writes `path`.png and `path`.svg."""
  wide = min(len(panels), 3)
  tall = -(-len(panels) // wide)
  figure = Figure(figsize=(4.2 * wide, 4.0 * tall), layout="constrained")
  FigureCanvasAgg(figure)
  grid = list(figure.subplots(tall, wide, squeeze=False).flat)
  for axes, (title, x, y) in zip(grid, panels, strict=False):
    axes.axline((0.0, 0.0), slope=1.0, color="0.35", linestyle="--", linewidth=1, zorder=1)
    axes.scatter(x, y, s=16, color=_COLOURS[0], alpha=0.8, zorder=3)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.25)
  for axes in grid[len(panels) :]:
    axes.set_visible(False)
  return _save(figure, path)


def lines(
  panels: Sequence[tuple[str, Sequence[tuple[str, Sequence[float], Sequence[float]]]]], path: Path, x_label: str
) -> list[Path]:
  """A panel of lines for each (y label, [(name, x, y)]), one colour and marker a name; writes PNG and SVG."""
  figure = Figure(figsize=(5.6 * len(panels), 4.4), layout="constrained")
  FigureCanvasAgg(figure)
  order = list(dict.fromkeys(name for _, series in panels for name, _, _ in series))
  for axes, (y_label, series) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
    for name, x, y in series:
      at = order.index(name)
      colour, marker = _COLOURS[at % len(_COLOURS)], _MARKERS[at % len(_MARKERS)]
      axes.plot(x, y, marker=marker, markersize=5, color=colour, label=name, linestyle="-" if len(x) > 1 else "none")
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
  return _save(figure, path)


def roc(panels: Sequence[tuple[str, Sequence[tuple[str, Sequence[float], Sequence[float]]]]], path: Path) -> list[Path]:
  """ROC curves on logarithmic axes, with that of guessing; a panel for each (title, [(name, FPR, TPR)])."""
  figure = Figure(figsize=(4.8 * len(panels), 4.6), layout="constrained")
  FigureCanvasAgg(figure)
  least = 1e-3
  for axes, (title, series) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
    axes.plot([least, 1], [least, 1], color="0.35", linestyle="--", linewidth=1, label="guessing")
    for at, (name, false, found) in enumerate(series):
      axes.plot(false, found, color=_COLOURS[at % len(_COLOURS)], label=name, linewidth=1.4, drawstyle="steps-post")
    axes.set(title=title, xlabel="false positive rate", xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1.05))
    axes.grid(alpha=0.25)
  axes.set_ylabel("")
  figure.axes[0].set_ylabel("true positive rate")
  figure.axes[-1].legend(fontsize=8, loc="lower right")
  return _save(figure, path)
