"""Utility: Recall, NDCG and HR at k of the full ranking over all items, and the top items of given users."""

from __future__ import annotations

import functools
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
from jaxunlearn.metrics.topk import top_k

METRICS = ("ndcg", "recall", "hr")
KS = (10, 20, 50)


class RankingResult(NamedTuple):
  """Means over the users that have something to find.

  Attributes:
    values: {"ndcg@10": …, "recall@10": …, "hr@10": …, "ndcg@20": …}: the float64 mean over `num_users`.
    num_users: users scored.
    num_skipped: users left out because they have no test pair.
    users: int32 [num_users], who was scored, ascending unless `users` was given in another order.
    per_user: for each key of `values` a float32 [num_users], in the order of `users`; None unless asked for.
  """

  values: dict[str, float]
  num_users: int
  num_skipped: int
  users: np.ndarray
  per_user: dict[str, np.ndarray] | None = None


def _masked_top_k(scorer: Scorer, chunk: _chunks.Chunks, k: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Values and indices [C, k] of the best unmasked items, and a float [C] that is NaN where a score is."""
  scores = scorer.scores(chunk.users)
  # A sum that is a matrix-vector product: counting isnan took as long as the ranking on a CPU. It also is NaN where
  # both infinities are present, so `_check_nan` counts before it blames.
  suspect = jnp.matmul(scores, jnp.ones(scores.shape[1], scores.dtype), precision="highest")
  flat = scores.reshape(-1).at[chunk.mask_keys].set(-jnp.inf, mode="drop")  # padding keys are out of range
  values, items = top_k(flat.reshape(scores.shape), k)
  return values, items, suspect


def _found(chunk: _chunks.Chunks, items: jax.Array, num_items: int) -> jax.Array:
  """bool [C, k]: which ranked items are among the user's test pairs."""
  keys = jnp.arange(items.shape[0], dtype=jnp.int32)[:, None] * num_items + items
  at = jnp.searchsorted(chunk.truth_keys, keys)
  return chunk.truth_keys[jnp.minimum(at, chunk.truth_keys.shape[0] - 1)] == keys


@functools.partial(jax.jit, static_argnames=("ks",))
def _evaluate(scorer: Scorer, chunks: _chunks.Chunks, ks: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
  """float32 [n, C, len(ks), 3] in the order of `METRICS`, and [n, C], NaN where a score may be."""
  num_items = scorer.num_items
  deepest = min(max(ks), num_items)
  discount = 1 / jnp.log2(jnp.arange(deepest, dtype=jnp.float32) + 2)
  ideal = jnp.concatenate([jnp.ones(1, jnp.float32), jnp.cumsum(discount)])  # ideal[0] only spares padding rows a 0 / 0

  def rank(chunk: _chunks.Chunks) -> tuple[jax.Array, jax.Array]:
    values, items, suspect = _masked_top_k(scorer, chunk, deepest)
    # An item at −inf is masked, not ranked: with fewer than k items left it would otherwise count as found.
    hits = (_found(chunk, items, num_items) & (values > -jnp.inf)).astype(jnp.float32)
    num_truth = jnp.maximum(chunk.num_truth, 1).astype(jnp.float32)
    metrics = []
    for k in ks:
      top = hits[:, :k]
      best = ideal[jnp.minimum(chunk.num_truth, min(k, deepest))]
      ndcg = jnp.sum(top * discount[None, :k], axis=1) / best
      metrics.append(jnp.stack([ndcg, jnp.sum(top, axis=1) / num_truth, jnp.max(top, axis=1)], axis=-1))
    return jnp.stack(metrics, axis=1), suspect

  # One program over all chunks: separate calls allocate their scores anew, which took as long as ranking them.
  return lax.map(rank, chunks)


@functools.partial(jax.jit, static_argnames=("k",))
def _top_items(scorer: Scorer, chunks: _chunks.Chunks, k: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  def rank(chunk: _chunks.Chunks) -> tuple[jax.Array, jax.Array, jax.Array]:
    values, items, suspect = _masked_top_k(scorer, chunk, k)
    return jnp.where(values > -jnp.inf, items, -1), values, suspect

  return lax.map(rank, chunks)


@jax.jit
def _count_nan(scorer: Scorer, chunks: _chunks.Chunks) -> jax.Array:
  """int32 [n, C]: NaN scores of each row."""
  return lax.map(lambda chunk: jnp.sum(jnp.isnan(scorer.scores(chunk.users)), axis=1, dtype=jnp.int32), chunks)


def _check_nan(scorer: Scorer, chunks: _chunks.Chunks, suspect: jax.Array, num_users: int) -> None:
  """Raises ValueError with the number of NaN scores among the first `num_users` rows, if there are any."""
  if not np.isnan(np.asarray(suspect)).any():
    return
  counts = np.asarray(_count_nan(scorer, chunks)).reshape(-1)[:num_users].astype(np.int64)
  if counts.any():
    raise ValueError(
      f"Expected scores without NaN, got {counts.sum():,} NaN of {num_users * scorer.num_items:,}, in the rows of "
      f"{np.count_nonzero(counts):,} users; train again with a smaller learning rate, or load an earlier checkpoint."
    )


class RankingEvaluator:
  """A test set laid out once, to be ranked by one scorer after another at the cost of device work alone.

  Every item is ranked for every user with a test pair, except the pairs in `mask` (those trained on). With hit_i = 1
  when the i-th ranked item is one of the user's |T| test items, i from 1:

    recall@k = Σ_{i ≤ k} hit_i / |T|
    ndcg@k   = Σ_{i ≤ k} hit_i / log₂(i + 1)  ÷  Σ_{i ≤ min(k, |T|)} 1 / log₂(i + 1)
    hr@k     = 1 if any hit_i = 1 with i ≤ k, else 0

  Equal scores are ranked by item position. A test pair that is masked, or whose score is −inf, counts in |T| and
  is never found. k beyond the number of items ranks them all. Users without a test pair are skipped and counted.

  The first call with a scorer compiles; another scorer of the same model and shapes does not, nor does another
  evaluator of the same shapes. Results do not depend on `chunk_size`, up to the last bits in which a matmul of
  another height may differ.

  Args:
    test: the pairs to be found.
    mask: pairs that are not ranked (training pairs), or None to rank all items.
    ks: cutoffs, each ≥ 1.
    chunk_size: users ranked at once; chosen by memory when None.
    users: positions, the users to score; all when None. Distinct.
    pad: rounds the rows up, to a multiple of 256 or by at most a quarter, so that test sets of about as many users
      share a program (the shards of a model; a shard before and after a request).

  Raises:
    ValueError: a cutoff < 1 or none, axes of test and mask that differ, a user out of range or repeated, or nobody
      left to score.
  """

  def __init__(
    self,
    test: Interactions,
    mask: Interactions | None = None,
    ks: Sequence[int] = KS,
    *,
    chunk_size: int | None = None,
    users: np.ndarray | None = None,
    pad: bool = False,
  ) -> None:
    """Lays the users with a test pair out; see the class."""
    if not ks:
      raise ValueError("Expected at least one cutoff in ks, got none.")
    for k in ks:
      check_whole("k", k)
    if mask is not None and (mask.num_users, mask.num_items) != (test.num_users, test.num_items):
      raise ValueError(f"Expected test and mask over the same users and items, got {test!r} and {mask!r}.")
    asked = np.arange(test.num_users) if users is None else _chunks.check_users(users, test.num_users)
    if users is not None and len(np.unique(asked)) != len(asked):
      raise ValueError("Expected distinct positions in users; a repeated user would count twice in the mean.")
    self.test, self.mask, self.ks = test, mask, tuple(int(k) for k in ks)
    self.users = asked[test.user_degrees()[asked] > 0].astype(np.int32)
    self.num_skipped = len(asked) - len(self.users)
    if not len(self.users):
      raise ValueError(f"Expected at least one user with a test pair, got {len(asked)} without any; nothing to rank.")
    self._chunk_size = chunk_size
    self._num_rows = _chunks.capacity(len(self.users)) if pad else len(self.users)
    self._laid_out: dict[int, _chunks.Chunks] = {}  # by chunk size, which depends on the scorer

  def __call__(self, scorer: Scorer, *, per_user: bool = False) -> RankingResult:
    """Ranks all items for all users of the test set by `scorer`.

    Args:
      scorer: what is served.
      per_user: whether to return each user's values beside the means.

    Raises:
      ValueError: the scorer has other axes, or scores are NaN (the message says how many).
    """
    _chunks.check_axes(scorer, test=self.test)
    size = _chunks.chunk_size_for(scorer, self._num_rows, self._chunk_size)
    if size not in self._laid_out:
      rows = self._num_rows
      self._laid_out[size] = _chunks.build(self.users, size, mask=self.mask, truth=self.test, num_rows=rows)
    chunks = self._laid_out[size]
    out, suspect = _evaluate(scorer, chunks, self.ks)
    _check_nan(scorer, chunks, suspect, len(self.users))
    table = np.asarray(out).reshape(-1, len(self.ks) * len(METRICS))[: len(self.users)]
    names = [f"{metric}@{k}" for k in self.ks for metric in METRICS]
    means = table.mean(axis=0, dtype=np.float64)
    return RankingResult(
      values=dict(zip(names, means.tolist(), strict=True)),
      num_users=len(self.users),
      num_skipped=self.num_skipped,
      users=self.users,
      per_user={name: table[:, column] for column, name in enumerate(names)} if per_user else None,
    )


def evaluate(
  scorer: Scorer,
  test: Interactions,
  *,
  mask: Interactions | None,
  ks: Sequence[int] = KS,
  chunk_size: int | None = None,
  users: np.ndarray | None = None,
  per_user: bool = False,
) -> RankingResult:
  """Recall@k, NDCG@k and HR@k of one scorer; `RankingEvaluator` says how they are defined and what raises.

  For more than one scorer on one test set, build a `RankingEvaluator` and call it.

  Args:
    scorer: what is served.
    test: the pairs to be found.
    mask: pairs that are not ranked, usually those trained on; None ranks all items.
    ks: cutoffs.
    chunk_size: users ranked at once; chosen by memory when None.
    users: positions, the users to score; all when None.
    per_user: whether to return each user's values beside the means.
  """
  _chunks.check_axes(scorer, test=test, mask=mask)
  return RankingEvaluator(test, mask, ks, chunk_size=chunk_size, users=users)(scorer, per_user=per_user)


def top_k_items(
  scorer: Scorer, users: np.ndarray, k: int, mask: Interactions | None = None, *, chunk_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """The k best unmasked items of each user, best first; equal scores by item position.

  Users and masked pairs are padded to a few capacities, so that requests for different users share a program.

  Args:
    scorer: what is served.
    users: int [N], positions, any order, repeats allowed; may be empty.
    k: how many, ≥ 1; may exceed the number of items.
    mask: pairs that are not to be returned, or None.
    chunk_size: users ranked at once; chosen by memory when None.

  Returns:
    Items, int32 [N, k], and scores, float32 [N, k]. Where fewer than k items are unmasked the rest are −1 and −inf.

  Raises:
    ValueError: k < 1, a user out of range, axes of scorer and mask that differ, or NaN scores.
  """
  check_whole("k", k)
  _chunks.check_axes(scorer, mask=mask)
  users = _chunks.check_users(users, scorer.num_users)
  items = np.full((len(users), k), -1, np.int32)
  scores = np.full((len(users), k), -np.inf, np.float32)
  found = min(k, scorer.num_items)
  if not len(users) or not found:
    return items, scores
  rows = 1 << (len(users) - 1).bit_length()
  size = _chunks.chunk_size_for(scorer, rows, chunk_size)
  chunks = _chunks.build(users, size, mask=mask, truth=None, num_rows=rows)
  top, values, suspect = _top_items(scorer, chunks, found)
  _check_nan(scorer, chunks, suspect, len(users))
  items[:, :found] = np.asarray(top).reshape(-1, found)[: len(users)]
  scores[:, :found] = np.asarray(values).reshape(-1, found)[: len(users)]
  return items, scores
