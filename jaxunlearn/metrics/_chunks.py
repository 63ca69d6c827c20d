"""Users in chunks of one shape, with the pairs to mask and the pairs to find, for a full ranking on the device."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.base import Scorer
from jaxunlearn.data.interactions import Interactions

# Floats alive in one chunk. 8 Mi are 32 MiB: 204 users of 41k items; on a CPU 64 to 512 users measured alike. An
# accelerator wants more work in one launch.
CPU_CHUNK_FLOATS = 1 << 23
ACCELERATOR_CHUNK_FLOATS = 1 << 27
MAX_KEY = np.iinfo(np.int32).max  # keys are row · num_items + item in int32; JAX has no int64 by default
MIN_CAPACITY = 256


class Chunks(NamedTuple):
  """Arrays with a leading axis of chunks, to be mapped over. C is the chunk size.

  Attributes:
    users: int32 [n, C], positions; rows beyond the last user repeat user 0 and are dropped afterwards.
    mask_keys: int32 [n, M], row · num_items + item of the pairs that are not to be ranked; padding is `MAX_KEY`.
    truth_keys: int32 [n, T], the same for the pairs to be found, ascending.
    num_truth: int32 [n, C], pairs to be found of each row.
  """

  users: jax.Array
  mask_keys: jax.Array
  truth_keys: jax.Array
  num_truth: jax.Array


def check_axes(scorer: Scorer, **interactions: Interactions | None) -> None:
  """Raises ValueError, naming the argument, unless all lie over the scorer's axes."""
  for name, value in interactions.items():
    if value is not None and (value.num_users, value.num_items) != (scorer.num_users, scorer.num_items):
      raise ValueError(
        f"Expected {name} over the scorer's {scorer.num_users:,} users × {scorer.num_items:,} items, got {value!r}."
      )


def check_users(users: np.ndarray, num_users: int) -> np.ndarray:
  """`users` as int32 [N], any order, repeats allowed.

  Raises:
    ValueError: not one dimension, not integers, or a position out of range (JAX would clamp it silently).
  """
  users = np.asarray(users)
  if users.ndim != 1 or (users.size and not np.issubdtype(users.dtype, np.integer)):
    raise ValueError(f"Expected integer positions [N] in users, got {users.dtype} of shape {users.shape}.")
  if users.size and (int(users.min()) < 0 or int(users.max()) >= num_users):
    bad = users[(users < 0) | (users >= num_users)][0]
    raise ValueError(f"Expected user positions in [0, {num_users}), got {bad}.")
  return users.astype(np.int32)


def chunk_size_for(scorer: Scorer, num_rows: int, requested: int | None) -> int:
  """Users ranked at once: the request where there is one, else what keeps the scores of a chunk in memory.

  A score that is not an inner product sees both vectors of every pair, so it gets as many times fewer users. The
  users are spread evenly, so that the last chunk is not mostly padding.

  Raises:
    ValueError: requested < 1, or so large that int32 keys do not reach.
  """
  num_items = max(1, scorer.num_items)
  largest = max(1, MAX_KEY // num_items)
  if requested is not None:
    if not 1 <= requested <= largest:
      raise ValueError(f"Expected chunk_size={requested} in [1, {largest}] for {num_items:,} items.")
    return min(requested, max(1, num_rows))
  floats = CPU_CHUNK_FLOATS if jax.default_backend() == "cpu" else ACCELERATOR_CHUNK_FLOATS
  width = 1 if scorer.inner_product else scorer.vectors.user.shape[1] + scorer.vectors.item.shape[1]
  size = min(largest, max(1, floats // (num_items * width)))
  return math.ceil(num_rows / math.ceil(num_rows / size)) if num_rows else 1


def capacity(count: int) -> int:
  """`count` rounded up to a multiple of 256, or by at most a quarter: few shapes as pairs go, and little padding."""
  step = max(MIN_CAPACITY, (1 << max(0, count - 1).bit_length()) // 8)
  return max(1, math.ceil(count / step)) * step


def _keys(interactions: Interactions | None, users: np.ndarray, size: int, num_chunks: int) -> np.ndarray:
  """int32 [num_chunks, capacity]: keys of the pairs of each chunk's users, ascending, padded."""
  if interactions is None or not len(interactions):
    return np.full((num_chunks, MIN_CAPACITY), MAX_KEY, np.int32)
  indptr = interactions.indptr()
  degrees = np.diff(indptr)[users]
  ends = np.cumsum(degrees)
  total = int(ends[-1]) if len(ends) else 0
  # Pair p of row r is number indptr[user of r] + (p − pairs of the rows before).
  rows = np.repeat(np.arange(len(users)), degrees)
  pairs = np.arange(total) + np.repeat(indptr[users] - (ends - degrees), degrees)
  keys = (rows % size) * interactions.num_items + interactions.item[pairs]
  bounds = np.searchsorted(rows, np.arange(num_chunks + 1) * size)
  out = np.full((num_chunks, capacity(int(np.diff(bounds).max()))), MAX_KEY, np.int32)
  chunk = rows // size
  out[chunk, np.arange(total) - bounds[chunk]] = keys
  return out


def build(
  users: np.ndarray, size: int, *, mask: Interactions | None, truth: Interactions | None, num_rows: int | None = None
) -> Chunks:
  """Lays `users` out in chunks of `size`; their order is kept, so row r of the flattened result is users[r].

  There are chunks for `num_rows` rows, by default one a user, at least one; rows without a user have no pairs.
  """
  num_chunks = max(1, math.ceil((len(users) if num_rows is None else num_rows) / size))
  padded = np.zeros(num_chunks * size, np.int32)
  padded[: len(users)] = users
  num_truth = np.zeros(num_chunks * size, np.int32)
  if truth is not None:
    num_truth[: len(users)] = truth.user_degrees()[users]
  return Chunks(
    users=jnp.asarray(padded.reshape(num_chunks, size)),
    mask_keys=jnp.asarray(_keys(mask, users, size, num_chunks)),
    truth_keys=jnp.asarray(_keys(truth, users, size, num_chunks)),
    num_truth=jnp.asarray(num_truth.reshape(num_chunks, size)),
  )
