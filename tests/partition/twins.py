"""Naive twins of the partitions: plain Python over sorted lists, written from the papers' algorithms, in float64."""

import math

import numpy as np


def naive_greedy(distance, cap, weight=None):
  """Every (unit, shard) pair in order of (distance, unit, shard); −1 for a unit that fits nowhere."""
  num_units, num_shards = distance.shape
  room = [int(c) for c in np.broadcast_to(cap, num_shards)]
  weight = [1] * num_units if weight is None else [int(w) for w in weight]
  pairs = sorted((float(distance[u, k]), u, k) for u in range(num_units) for k in range(num_shards))
  shard = [-1] * num_units
  for _, u, k in pairs:
    if shard[u] < 0 and weight[u] <= room[k]:
      shard[u] = k
      room[k] -= weight[u]
  return shard


def _mean(vectors, old, scalar):
  if not vectors:
    return old
  mean = np.mean(vectors, axis=0)
  return np.full_like(mean, np.mean(mean)) if scalar else mean


def naive_ubp(points, first, cap, passes, weight=None, scalar=False):
  """Algorithm 1 from the anchors `first` (indices): the shards of the last pass, the number of passes."""
  points = points.astype(np.float64)
  anchors = [points[i] for i in first]
  number, moved = 0, True
  while moved and number < passes:
    distance = np.asarray([[math.dist(p, a) for a in anchors] for p in points])
    shard = naive_greedy(distance, cap, weight)
    new = []
    for k, anchor in enumerate(anchors):
      new.append(_mean([p for p, s in zip(points, shard, strict=True) if s == k], anchor, scalar))
    moved = any((a != b).any() for a, b in zip(anchors, new, strict=True))
    anchors, number = new, number + 1
  return shard, number


def naive_inbp(users, items, user_vectors, item_vectors, first, cap, passes, scalar=False):
  """Algorithm 2 from the interactions `first`: the shards of the last pass, the number of passes."""
  left = [user_vectors[u].astype(np.float64) for u in users]
  right = [item_vectors[i].astype(np.float64) for i in items]
  anchors = [(left[j], right[j]) for j in first]
  number, moved = 0, True
  while moved and number < passes:
    distance = [[math.dist(p, a) * math.dist(q, b) for a, b in anchors] for p, q in zip(left, right, strict=True)]
    shard = naive_greedy(np.asarray(distance), cap)
    new = []
    for k, (a, b) in enumerate(anchors):
      rows = [j for j, s in enumerate(shard) if s == k]
      new.append((_mean([left[j] for j in rows], a, scalar), _mean([right[j] for j in rows], b, scalar)))
    moved = any((x != y).any() for a, b in zip(anchors, new, strict=True) for x, y in zip(a, b, strict=True))
    anchors, number = new, number + 1
  return shard, number


def naive_accept(wanted, count, source, room):
  """Rounds: each community accepts its best waiting candidates into the room of the round's beginning."""
  room = [int(r) for r in room]
  waiting = sorted(range(len(wanted)), key=lambda j: (-count[j], j))
  accepted = [False] * len(wanted)
  while True:
    free, moved = list(room), []
    for j in waiting:
      if free[wanted[j]] > 0:
        free[wanted[j]] -= 1
        moved.append(j)
    if not moved:
      return accepted, room
    for j in moved:
      accepted[j] = True
      room[wanted[j]] -= 1
      room[source[j]] += 1
    waiting = [j for j in waiting if not accepted[j]]
