"""The rows that a shard has pairs in, without the others: what a submodel of sparse data trains on.

A shard of Gowalla has pairs in 6,448 to 37,084 of 70,839 rows (UBP by pairs, ten shards). The others never have a
gradient, but a dense optimizer, a propagation and a moving average pass over them at every step.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxunlearn import optimizers
from jaxunlearn.base import Model
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.epoch import TrainConfig, TrainState

MIN_ROWS = 32_768  # users and items together; below, a program more (4 s for LightGCN) costs what it saves
MAX_SHARE = 0.75  # of the rows; a shard that would train on more trains on all


class OwnRows(NamedTuple):
  """Rows of both tables, ascending, then padding (the number of rows, which is out of range).

  Attributes:
    user: int32 [height of the user table].
    item: int32 [height of the item table].
  """

  user: np.ndarray
  item: np.ndarray


def applies(model: Model, config: TrainConfig) -> bool:
  """Whether training neither reads nor moves a row without a pair of the shard, and yet costs by all rows.

  So it is for BPRMF and LightGCN where negatives are the shard's own items and the optimizer passes over tables. Not
  for WMF, which reads all items, NeuMF, whose tables are others, a model that we do not know, and row optimizers,
  which cost by the batch.
  """
  return model.name in ("bprmf", "lightgcn") and config.negatives == "present" and config.optimizer in optimizers.DENSE


def _height(count: int) -> int:
  """`count` rounded up to a power of two or one and a half of it, so that few programs serve all shards."""
  power = 1 << max(8, int(count - 1).bit_length())
  return power * 3 // 4 if count <= power * 3 // 4 else power


def find(part: Interactions) -> OwnRows | None:
  """The rows of a shard, which depend on its own pairs alone; None for one that trains on whole tables."""

  def rows(degree: np.ndarray) -> np.ndarray:
    found = np.flatnonzero(degree).astype(np.int32)
    return np.pad(found, (0, _height(found.size) - found.size), constant_values=degree.size)

  num_rows = part.num_users + part.num_items
  if num_rows < MIN_ROWS:
    return None
  own = OwnRows(rows(part.user_degrees()), rows(part.item_degrees()))
  return own if own.user.size + own.item.size <= MAX_SHARE * num_rows else None


def narrow(interactions: Interactions, rows: OwnRows) -> Interactions:
  """The same pairs by the places of their rows; they stay sorted."""

  def place(own: np.ndarray, num_rows: int) -> np.ndarray:
    places = np.zeros(num_rows + 1, np.int32)
    places[own] = np.arange(own.size, dtype=np.int32)
    return places

  user, item = place(rows.user, interactions.num_users), place(rows.item, interactions.num_items)
  return Interactions(user[interactions.user], item[interactions.item], rows.user.size, rows.item.size)


def _table_of(path: tuple[Any, ...]) -> str | None:
  """The table whose rows a leaf of a state has; None for a leaf without rows."""
  names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
  return next((name for name in names if name in ("user", "item")), None)


@jax.jit
def take(state: TrainState, rows: OwnRows) -> TrainState:
  """The state of these rows; zeros in padding."""

  def pick(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
    name = _table_of(path)
    return leaf if name is None else leaf.at[getattr(rows, name)].get(mode="fill", fill_value=0)

  return jax.tree_util.tree_map_with_path(pick, state)


@functools.partial(jax.jit, donate_argnames=("state",))
def put(state: TrainState, rows: OwnRows, own: TrainState) -> TrainState:
  """The state, which is consumed, with these rows, and all that has no rows, from `own`."""

  def write(path: tuple[Any, ...], leaf: jax.Array, new: jax.Array) -> jax.Array:
    name = _table_of(path)
    return new if name is None else leaf.at[getattr(rows, name)].set(new, mode="drop")

  return jax.tree_util.tree_map_with_path(write, state, own)
