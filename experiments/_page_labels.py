"""Where names go in a plot: near what they name, on nothing else. Equal input gives equal places."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from experiments._page_svg import LINE, Box

Segment = tuple[float, float, float, float]  # from (x, y) to (x, y)
_GRID = 5.0  # distance of the places that are tried
_CHUNK = 512  # places whose lines are looked at together: the first that will do is mostly among the nearest


def leader(x: float, y: float, radius: float, box: Box) -> Segment | None:
  """The line from the edge of a circle to its label; None where the label is beside the circle."""
  lines, drawn = _leaders(x, y, radius, np.array([box]))
  return _four(lines[0]) if drawn[0] else None


def place_labels(
  labels: Sequence[tuple[float, float, float, float]], obstacles: Sequence[Box], bounds: Box
) -> list[Box]:
  """A place for each label as near as possible to its circle, on nothing else, and with no line to it through another.

  Args:
    labels: (x, y, radius, width of the text), one a circle.
    obstacles: boxes to keep free: the circles and their error bars.
    bounds: where labels may be.

  Returns:
    A box of a line's height for each. Where there is no free place left, labels cover circles rather than each other.
  """
  blocks = np.array(obstacles, np.float64).reshape(-1, 4)
  placed, lines = np.empty((0, 4)), np.empty((0, 4))
  for x, y, radius, width in labels:
    places = _candidates(x, y, radius, width, bounds)
    under = (blocks[:, 0] <= x) & (x <= blocks[:, 2]) & (blocks[:, 1] <= y) & (y <= blocks[:, 3])
    others = np.concatenate([placed, blocks[~under]])  # its line starts on the rest
    apart = places[~_overlap(places, placed)]
    free = apart[~_overlap(apart, blocks)]
    best = _first_clear(x, y, radius, free, lines, others)
    if best is None:
      best = next(some[0] for some in (free, apart, places) if len(some))
    placed = np.concatenate([placed, best[None]])
    line, drawn = _leaders(x, y, radius, best[None])
    lines = np.concatenate([lines, line[drawn]])
  return [_four(box) for box in placed]


def _first_clear(
  x: float, y: float, radius: float, places: np.ndarray, lines: np.ndarray, others: np.ndarray
) -> np.ndarray | None:
  """The first place that no line to another label crosses, and whose own line crosses none of `others`."""
  for start in range(0, len(places), _CHUNK):
    some = places[start : start + _CHUNK]
    cut = _cross(lines[None], some[:, None]).any(1)
    own, drawn = _leaders(x, y, radius, some)
    cut |= drawn & _cross(own[:, None], others[None]).any(1)
    if not cut.all():
      return np.asarray(some[np.argmin(cut)])
  return None


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
  """Of each box whether it shares an area with any of the others."""
  a, b = boxes[:, None], others[None]
  return np.asarray(
    ((a[..., 0] < b[..., 2]) & (b[..., 0] < a[..., 2]) & (a[..., 1] < b[..., 3]) & (b[..., 1] < a[..., 3])).any(1)
  )


def _cross(segments: np.ndarray, boxes: np.ndarray) -> np.ndarray:
  """Whether segments [..., 4] have a part inside boxes [..., 4], which broadcast."""
  start, step = segments[..., :2], segments[..., 2:] - segments[..., :2]
  with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0, along an edge, is NaN: not inside
    first, last = (boxes[..., :2] - start) / step, (boxes[..., 2:] - start) / step
  near, far = np.minimum(first, last), np.maximum(first, last)
  enter = np.maximum(np.maximum(near[..., 0], near[..., 1]), 0.0)
  leave = np.minimum(np.minimum(far[..., 0], far[..., 1]), 1.0)
  return np.asarray(enter < leave)


def _leaders(x: float, y: float, radius: float, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Lines [n, 4] from the edge of a circle to the nearest points of boxes [n, 4], and which of them are drawn."""
  to_x, to_y = np.clip(x, boxes[:, 0], boxes[:, 2]), np.clip(y, boxes[:, 1], boxes[:, 3])
  distance = np.hypot(to_x - x, to_y - y)
  share = radius / np.maximum(distance, 1.0)
  lines = np.stack([x + (to_x - x) * share, y + (to_y - y) * share, to_x, to_y], 1)
  return lines, distance > radius + 9


def _candidates(x: float, y: float, radius: float, width: float, bounds: Box) -> np.ndarray:
  """Boxes to try, [n, 4]: beside the circle, above and below it, at its corners; then all of a grid, nearest first."""
  left, top, right, bottom = bounds
  gap, across = radius + 3, radius * 0.7 + 2
  near = [
    (x + gap, y - LINE / 2), (x - gap - width, y - LINE / 2), (x - width / 2, y - gap - LINE), (x - width / 2, y + gap),
    (x + across, y - across - LINE), (x + across, y + across), (x - across - width, y - across - LINE),
    (x - across - width, y + across),
  ]  # fmt: skip
  inside = [(a, b) for a, b in near if left <= a and a + width <= right and top <= b and b + LINE <= bottom]
  columns = left + _GRID * np.arange(max(1, math.floor((right - left - width) / _GRID) + 1))
  rows = top + _GRID * np.arange(max(1, math.floor((bottom - top - LINE) / _GRID) + 1))
  grid = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
  aside = np.maximum(np.maximum(grid[:, 0] - x, 0.0), x - grid[:, 0] - width)
  down = np.maximum(np.maximum(grid[:, 1] - y, 0.0), y - grid[:, 1] - LINE)
  grid = grid[np.lexsort((grid[:, 0], grid[:, 1], np.hypot(aside, down)))]
  corners = np.concatenate([np.array(inside, np.float64).reshape(-1, 2), grid])
  return np.concatenate([corners, corners + [width, LINE]], 1)


def _four(values: np.ndarray) -> Box:
  a, b, c, d = map(float, values)
  return a, b, c, d
