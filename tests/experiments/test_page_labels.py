"""Names in plots: on nothing else, and their lines through nothing else, as a slow twin sees it."""

import math

import numpy as np
import pytest

from experiments import _page_labels
from experiments._page_labels import leader, place_labels

BOUNDS = (0.0, 0.0, 360.0, 240.0)


def inside(points, boxes):
  """Of points [n, 2] and boxes [m, 4] which lie in which."""
  points, boxes = np.asarray(points, float)[:, None], np.reshape(boxes, (-1, 4))
  return ((boxes[:, :2] < points) & (points < boxes[:, 2:])).all(-1)


def crosses(segment, boxes, steps):
  """Of boxes [m, 4] which a segment passes through: by walking along it."""
  x, y, to_x, to_y = segment
  along = np.arange(1, steps)[:, None] / steps
  return inside((x, y) + along * (to_x - x, to_y - y), boxes).any(0)


def overlap(a, b):
  return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_which_lines_cross_which_boxes():
  rng = np.random.default_rng(0)
  lines = rng.integers(0, 12, (60, 4)).astype(float)  # whole numbers: many are upright, or end on an edge
  corner = rng.integers(0, 10, (40, 2)).astype(float)
  boxes = np.concatenate([corner, corner + rng.integers(1, 4, (40, 2))], 1)
  found = _page_labels._cross(lines[:, None], boxes[None])
  wanted = np.array([crosses(line, boxes, 4000) for line in lines])
  np.testing.assert_array_equal(found, wanted)
  assert wanted.any() and not wanted.all()


def one_by_one(labels, obstacles):
  """The same places, each tried alone: free and with a clear line, or only free."""
  placed, lines = [], []
  for x, y, radius, width in labels:
    free, clear = None, None
    others = [*placed, *(box for box in obstacles if not inside([(x, y)], box).any())]
    for box in map(tuple, _page_labels._candidates(x, y, radius, width, BOUNDS).tolist()):
      if any(overlap(box, other) for other in (*placed, *obstacles)):
        continue
      free = free or box
      line = leader(x, y, radius, box)
      cut = any(crosses(one, box, 200).any() for one in lines)
      if not cut and (line is None or not crosses(line, others, 200).any()):
        clear = box
        break
    placed.append(clear or free)
    lines += [line for line in [leader(x, y, radius, placed[-1])] if line]
  return placed, len(lines)


@pytest.mark.parametrize("seed", range(2))
def test_names_lie_on_nothing_and_their_lines_cross_nothing_where_that_can_be(seed):
  rng = np.random.default_rng(seed)
  grid = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2)
  spots = (150, 90) + 16 * grid + rng.uniform(-3, 3, grid.shape)  # crowded: most names need a line
  labels = [(x, y, 3.0, float(rng.uniform(50, 100))) for x, y in spots]
  circles = [(x - 3, y - 3, x + 3, y + 3) for x, y in spots]
  places = place_labels(labels, circles, BOUNDS)
  wanted, num_lines = one_by_one(labels, circles)
  assert places == wanted and num_lines > 4
  assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= 360 and box[3] <= 240 for box in places)


def test_the_nearest_place_is_taken():
  (box,) = place_labels([(100.0, 100.0, 5.0, 40.0)], [], BOUNDS)
  assert box == (108.0, 93.0, 148.0, 107.0) and leader(100.0, 100.0, 5.0, box) is None
  (box,) = place_labels([(100.0, 100.0, 5.0, 40.0)], [(0.0, 60.0, 150.0, 140.0)], BOUNDS)
  start_x, start_y, end_x, end_y = leader(100.0, 100.0, 5.0, box)
  assert math.hypot(start_x - 100, start_y - 100) == pytest.approx(5) and not overlap(box, (0, 60, 150, 140))
  grid = [(x, y, x + 40, y + 14) for x in range(0, 321, 5) for y in range(0, 227, 5)]
  free = [place for place in grid if not overlap(place, (0, 60, 150, 140))]
  nearest = min(math.hypot(max(p[0] - 100, 0, 60 - p[0]), max(p[1] - 100, 0, 86 - p[1])) for p in free)
  assert math.hypot(end_x - 100, end_y - 100) == pytest.approx(nearest)


def test_where_there_is_no_room_names_cover_circles_rather_than_names():
  everything = [(0.0, 0.0, 360.0, 240.0)]
  places = place_labels([(50.0, 50.0, 4.0, 60.0)] * 4, everything, BOUNDS)
  assert not any(overlap(a, b) for i, a in enumerate(places) for b in places[:i])
  assert len(place_labels([(5.0, 5.0, 2.0, 50.0)] * 2, [], (0.0, 0.0, 50.0, 14.0))) == 2  # nor a place for two
