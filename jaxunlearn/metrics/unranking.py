"""Unranking: how far down their users' lists forgotten items have gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxunlearn._validate import check_whole
from jaxunlearn.base import Scorer
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.metrics import _chunks

KS = (10, 20, 50)


class UnrankingResult(NamedTuple):
  """Where the forgotten items are in their users' lists.

  Attributes:
    outside: {k: share of the forgotten pairs whose rank is beyond k}, in [0, 1].
    mean_rank: mean of `ranks`; 1 is the top.
    ranks: float32 [N], one a forgotten pair, in their order.
    num_candidates: int32 [N], items that the pair was ranked among, itself included.
  """

  outside: dict[int, float]
  mean_rank: float
  ranks: np.ndarray
  num_candidates: np.ndarray


class RankShift(NamedTuple):
  """Ranks after minus ranks before, in places; positive: demoted.

  Attributes:
    mean: over the forgotten pairs.
    median: likewise.
    shifts: float32 [N], in the order of the pairs.
  """

  mean: float
  median: float
  shifts: np.ndarray


@jax.jit
def _ranks(scorer: Scorer, chunks: _chunks.Chunks, items: jax.Array) -> tuple[jax.Array, jax.Array]:
  """float32 [n, C] ranks, and int32 [n, C] numbers of NaN scores."""

  def rank(chunk_and_items: tuple[_chunks.Chunks, jax.Array]) -> tuple[jax.Array, jax.Array]:
    chunk, item = chunk_and_items
    scores = scorer.scores(chunk.users)
    num_nan = jnp.sum(jnp.isnan(scores), axis=1, dtype=jnp.int32)
    # NaN, which is neither above nor equal to anything: at −inf a masked item would tie with a score of −inf.
    candidates = scores.reshape(-1).at[chunk.mask_keys].set(jnp.nan, mode="drop").reshape(scores.shape)
    own = jnp.take_along_axis(scores, item[:, None], axis=1)
    above = jnp.sum(candidates > own, axis=1, dtype=jnp.int32)
    ties = jnp.sum(candidates == own, axis=1, dtype=jnp.int32) - 1
    return 1.0 + above + 0.5 * ties, num_nan

  return lax.map(rank, (chunks, items))


def forgotten_ranks(
  scorer: Scorer, forget: Interactions, *, mask: Interactions, chunk_size: int | None = None
) -> np.ndarray:
  """The rank of each forgotten item in its user's list: float32 [N], in the order of `forget`.

  The candidates are all items that the user has *not retained*: masking the forgotten pairs as well, as a utility
  metric does, would leave nothing to rank. With ties, rank = 1 + #{higher} + ½ #{other equal}: an item whose
  score is that of all others is in the middle, whatever its position.

  A program ranks one row a forgotten pair, in chunks of one shape: O(N · num_items · d) in all.

  Args:
    scorer: what is served.
    forget: the forgotten pairs.
    mask: the retained pairs, not one forgotten pair among them.
    chunk_size: pairs ranked at once; chosen by memory when None.

  Raises:
    ValueError: axes that differ, a forgotten pair in `mask`, or NaN scores.
  """
  _chunks.check_axes(scorer, forget=forget, mask=mask)
  shared = int(mask.contains(forget).sum())
  if shared:
    raise ValueError(f"Expected a mask of retained pairs, got {shared} forgotten ones in it; use mask.without(forget).")
  count = len(forget)
  if not count:
    return np.zeros(0, np.float32)
  rows = 1 << (count - 1).bit_length()  # few shapes, so that requests of many sizes share programs
  size = _chunks.chunk_size_for(scorer, rows, chunk_size)
  chunks = _chunks.build(forget.user, size, mask=mask, truth=None, num_rows=rows)
  items = np.zeros(chunks.users.size, np.int32)
  items[:count] = forget.item
  ranks, num_nan = _ranks(scorer, chunks, jnp.asarray(items.reshape(chunks.users.shape)))
  bad = np.asarray(num_nan).reshape(-1)[:count]
  if bad.any():
    raise ValueError(
      f"Expected scores without NaN, got NaN for {len(np.unique(forget.user[bad > 0])):,} of the users; "
      "train again with a smaller learning rate, or load an earlier checkpoint."
    )
  return np.asarray(ranks).reshape(-1)[:count]


def unranking(
  scorer: Scorer,
  forget: Interactions,
  *,
  mask: Interactions,
  ks: Sequence[int] = KS,
  chunk_size: int | None = None,
) -> UnrankingResult:
  """How many forgotten items have left their users' top k, and their mean rank; ranks as in `forgotten_ranks`.

  The target is Retrain's own value on the same pairs, not 1: tastes can be inferred from what is retained, and an
  item far below its Retrain rank stands out. A share that noise added to all parameters would also reach says
  nothing without utility next to it.

  Args:
    scorer: what is served.
    forget: the forgotten pairs, at least one.
    mask: the retained pairs.
    ks: lengths of a list, each ≥ 1.
    chunk_size: pairs ranked at once; chosen by memory when None.

  Raises:
    ValueError: no forgotten pair, a k < 1, or as `forgotten_ranks`.
  """
  for k in ks:
    check_whole("k", k)
  if not len(forget):
    raise ValueError("Expected at least one forgotten pair to rank, got none.")
  ranks = forgotten_ranks(scorer, forget, mask=mask, chunk_size=chunk_size)
  left = scorer.num_items - mask.user_degrees()[forget.user]
  return UnrankingResult(
    outside={int(k): float(np.mean(ranks > k)) for k in ks},
    mean_rank=float(ranks.mean(dtype=np.float64)),
    ranks=ranks,
    num_candidates=left.astype(np.int32),
  )


def rank_shift(
  before: Scorer, after: Scorer, forget: Interactions, *, mask: Interactions, chunk_size: int | None = None
) -> RankShift:
  """By how many places the forgotten items have gone down from one scorer to another, among the same candidates.

  The target again is Retrain's shift. Noise in the ranks is part of it: two trainings that differ in the seed
  alone shift single items by hundreds of places, so compare means, and give the shift between two seeds next to it.

  Args:
    before: the scorer before the request.
    after: the scorer after it.
    forget: the forgotten pairs, at least one.
    mask: the retained pairs, for both.
    chunk_size: pairs ranked at once; chosen by memory when None.

  Raises:
    ValueError: no forgotten pair, or as `forgotten_ranks`.
  """
  if not len(forget):
    raise ValueError("Expected at least one forgotten pair to rank, got none.")
  old, new = (forgotten_ranks(scorer, forget, mask=mask, chunk_size=chunk_size) for scorer in (before, after))
  shifts = new - old
  return RankShift(float(shifts.mean(dtype=np.float64)), float(np.median(shifts)), shifts)
