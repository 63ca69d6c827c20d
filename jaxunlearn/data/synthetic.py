"""Synthetic interactions with a known right answer: planted taste clusters and power-law popularity.

A user of cluster c draws items without replacement, each draw from

  P(i | u) = (1 - affinity) · w_i / Σ_j w_j  +  affinity · [cluster of i is c] · w_i / Σ_{j in c} w_j

with w_i = rank_i ** -popularity_exponent. P is a matrix of rank num_clusters + 1, so two small tables of
embeddings hold it exactly; ranking by their inner product is the best any recommender can do, in expectation.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxunlearn._validate import check_fraction, check_integers, check_non_negative, check_positive
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.data.vocabulary import Vocabulary

# Users are generated in blocks of about so many pairs, each from its own generator: extra memory is bounded by the
# block (about 200 bytes a pair). A constant, since another value gives other data for the same seed.
_BLOCK_PAIRS = 1 << 20
_MAX_ROUNDS = 24  # after these, the few users still short of pairs are finished exactly, one dense row each
_MIN_PAIRS = 4  # a user, so that there is something to hold out


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
  """What to plant. The defaults fit in seconds and are small enough for a factor model to memorise pairs."""

  num_users: int = 1500  # >= 1
  num_items: int = 1000  # >= num_clusters
  num_pairs: int = 75_000  # pairs in all, train and test; at least 4 and at most `most_pairs` a user
  num_clusters: int = 8  # taste clusters, >= 1; users and items belong to one each, equally many
  popularity_exponent: float = 0.8  # item weight is rank ** -this, >= 0; 0 is uniform, about 1 is usual
  activity_exponent: float = 0.4  # a user's share of pairs is rank ** -this, >= 0; 0 is equally many each
  affinity: float = 0.7  # share of draws from the user's own cluster, in [0, 1]; 0 is popularity alone
  test_fraction: float = 0.2  # share of each user's pairs held out for test, rounded down, in (0, 1)
  seed: int = 0  # >= 0; equal configs give bitwise equal data with the same NumPy

  def __post_init__(self) -> None:
    """Checks every field."""
    check_integers(self)
    for name in ("num_users", "num_items", "num_pairs", "num_clusters"):
      check_positive(name, getattr(self, name))
    for name in ("popularity_exponent", "activity_exponent", "seed"):
      check_non_negative(name, getattr(self, name))
    check_fraction("affinity", self.affinity, closed=True)
    check_fraction("test_fraction", self.test_fraction)
    if self.num_clusters > self.num_items:
      raise ValueError(f"Expected num_clusters={self.num_clusters} <= num_items={self.num_items}.")
    low, high = _MIN_PAIRS * self.num_users, self.num_users * self.most_pairs
    if not low <= self.num_pairs <= high:
      raise ValueError(
        f"Expected num_pairs={self.num_pairs} in [{low}, {high}]: {_MIN_PAIRS} to {self.most_pairs} a user."
      )

  @property
  def most_pairs(self) -> int:
    """Most pairs a user can have: half the items within reach, so that something is left to rank."""
    return (self.num_items if self.affinity < 1 else self.num_items // self.num_clusters) // 2


@dataclasses.dataclass(frozen=True, eq=False)
class Synthetic:
  """Generated data and the truth behind it.

  Attributes:
    config: what was planted.
    dataset: train and test parts; raw ids are positions.
    user_cluster: int32 [num_users].
    item_cluster: int32 [num_items].
    item_weight: float64 [num_items], w above, unnormalised.
  """

  config: SyntheticConfig
  dataset: Dataset
  user_cluster: np.ndarray
  item_cluster: np.ndarray
  item_weight: np.ndarray

  def oracle_embeddings(self) -> tuple[np.ndarray, np.ndarray]:
    """(user [num_users, C + 1], item [num_items, C + 1]) float32 with ⟨user, item⟩ = P(i | u)."""
    clusters = np.arange(self.config.num_clusters)
    per_cluster = np.bincount(self.item_cluster, self.item_weight, minlength=clusters.size)
    own = self.item_cluster[:, None] == clusters
    user = np.concatenate(
      [
        np.full((self.config.num_users, 1), 1 - self.config.affinity),
        self.config.affinity * (self.user_cluster[:, None] == clusters),
      ],
      axis=1,
    )
    item = np.concatenate(
      [(self.item_weight / self.item_weight.sum())[:, None], own * (self.item_weight[:, None] / per_cluster)], axis=1
    )
    return user.astype(np.float32), item.astype(np.float32)

  def probabilities(self, users: np.ndarray) -> np.ndarray:
    """float64 [B, num_items]: P(i | u) of the first draw, for user positions int [B]. Rows sum to 1."""
    total, clusters = self.item_weight.sum(), self.config.num_clusters
    per_cluster = np.bincount(self.item_cluster, self.item_weight, minlength=clusters)
    own = self.user_cluster[users][:, None] == self.item_cluster
    return self.item_weight * (
      (1 - self.config.affinity) / total + self.config.affinity * own / per_cluster[self.item_cluster]
    )


def _pair_counts(config: SyntheticConfig, rng: np.random.Generator) -> np.ndarray:
  """int64 [num_users] summing to num_pairs: power-law activity over shuffled users, within the bounds of each."""
  share = (1 + rng.permutation(config.num_users)) ** -float(config.activity_exponent)
  counts = np.full(config.num_users, _MIN_PAIRS, np.int64)
  while (left := config.num_pairs - int(counts.sum())) > 0:
    room = config.most_pairs - counts
    open_share = np.where(room > 0, share, 0)
    # Whole numbers below a remainder: floors first, then one each to the users first in rank.
    more = np.minimum(np.floor(open_share * (left / open_share.sum())).astype(np.int64), room)
    if not more.any():
      more[np.argsort(-open_share, kind="stable")[: min(left, int((room > 0).sum()))]] = 1
    counts += more
  return counts


class _Sampler:
  """Draws items for many users at once; items are held sorted by cluster, so one cumulative sum serves both parts."""

  def __init__(self, config: SyntheticConfig, user_cluster: np.ndarray, item_cluster: np.ndarray, weight: np.ndarray):
    self.config, self.user_cluster = config, user_cluster
    self.by_cluster = np.argsort(item_cluster, kind="stable").astype(np.int32)
    self.cumulative = np.concatenate([[0.0], np.cumsum(weight[self.by_cluster])])
    self.bounds = np.concatenate([[0], np.cumsum(np.bincount(item_cluster, minlength=config.num_clusters))])

  def draw(self, rng: np.random.Generator, user: np.ndarray) -> np.ndarray:
    """int64 [n]: one item each, independent, as places in the order of `by_cluster`."""
    cluster = self.user_cluster[user]
    own = rng.random(user.size) < self.config.affinity
    first = np.where(own, self.bounds[cluster], 0)
    last = np.where(own, self.bounds[cluster + 1], self.config.num_items)
    low, high = self.cumulative[first], self.cumulative[last]
    place = np.searchsorted(self.cumulative, low + rng.random(user.size) * (high - low), side="right") - 1
    return np.clip(place, first, last - 1)

  def finish(self, rng: np.random.Generator, user: int, taken: list[np.ndarray], missing: int) -> np.ndarray:
    """int64 [missing]: further items without replacement, by exponential races over all items not taken."""
    cluster, affinity = self.user_cluster[user], self.config.affinity
    weight = np.diff(self.cumulative)
    own = slice(self.bounds[cluster], self.bounds[cluster + 1])
    chance = (1 - affinity) * weight / weight.sum()
    chance[own] += affinity * weight[own] / weight[own].sum()
    for places in taken:
      chance[places] = 0
    with np.errstate(divide="ignore"):
      arrival = rng.exponential(size=chance.size) / chance  # the earliest arrivals are a draw without replacement
    return np.argsort(arrival, kind="stable")[:missing]

  def block(self, rng: np.random.Generator, users: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(user [n], item [n]), sorted: counts[k] distinct items for users[k].

    Drawing until something new comes up, and drawing from what is left, are the same distribution; so each round
    draws for every pair still missing, and repeats are drawn again in the next.
    """
    width = self.config.num_items
    runs: list[np.ndarray] = []  # sorted keys (row · width + place), a run a round, far shorter each time
    missing = counts.copy()
    for _ in range(_MAX_ROUNDS):
      row = np.repeat(np.arange(users.size), missing)
      if not row.size:
        break
      drawn = np.sort(row * width + self.draw(rng, users[row]))
      fresh = drawn[np.concatenate([[True], drawn[1:] != drawn[:-1]])]
      for run in runs:
        fresh = fresh[run[np.minimum(np.searchsorted(run, fresh), run.size - 1)] != fresh]
      missing -= np.bincount(fresh // width, minlength=users.size)
      if fresh.size:
        runs.append(fresh)
    late = []
    for k in np.flatnonzero(missing).tolist():
      bounds = [np.searchsorted(run, (k * width, (k + 1) * width)) for run in runs]
      taken = [run[first:last] - k * width for run, (first, last) in zip(runs, bounds, strict=True)]
      late.append(k * width + self.finish(rng, int(users[k]), taken, int(missing[k])))
    row, place = np.divmod(np.concatenate([*runs, *late]), width)
    keys = np.sort(row * width + self.by_cluster[place])
    return users[keys // width].astype(np.int32), (keys % width).astype(np.int32)


def generate(config: SyntheticConfig) -> Synthetic:
  """Generates data from `config`; equal configs give bitwise equal data with the same NumPy.

  Cost: time and memory linear in `num_pairs` (8 bytes a pair kept, a bounded block beside it); 10⁸ pairs fit in
  under 2 GB.
  """
  plan, *_ = np.random.SeedSequence(config.seed).spawn(1)
  rng = np.random.default_rng(plan)
  user_cluster = rng.permutation(np.arange(config.num_users, dtype=np.int32) % config.num_clusters)
  item_cluster = rng.permutation(np.arange(config.num_items, dtype=np.int32) % config.num_clusters)
  weight = (1.0 + rng.permutation(config.num_items)) ** -float(config.popularity_exponent)
  counts = _pair_counts(config, rng)
  held_out = np.floor(counts * config.test_fraction + 1e-9).astype(np.int64)
  sampler = _Sampler(config, user_cluster, item_cluster, weight)

  sizes = {"train": int((counts - held_out).sum()), "test": int(held_out.sum())}
  arrays = {part: (np.empty(size, np.int32), np.empty(size, np.int32)) for part, size in sizes.items()}
  filled = dict.fromkeys(sizes, 0)
  block_of = (np.cumsum(counts) - counts) // _BLOCK_PAIRS
  starts = np.flatnonzero(np.concatenate([[True], block_of[1:] != block_of[:-1]]))
  for start, stop in zip(starts, np.append(starts[1:], config.num_users), strict=True):
    # Seeded by the block's first user: a block's pairs do not depend on how many blocks came before.
    rng = np.random.default_rng(np.random.SeedSequence([config.seed, 1, int(start)]))
    users = np.arange(start, stop)
    user, item = sampler.block(rng, users, counts[start:stop])
    shuffled = np.lexsort((rng.random(user.size), user))
    rank = np.empty(user.size, np.int64)
    rank[shuffled] = np.arange(user.size) - np.repeat(
      np.cumsum(counts[start:stop]) - counts[start:stop], counts[start:stop]
    )
    in_test = rank < held_out[user]
    for part, rows in (("train", ~in_test), ("test", in_test)):
      size = int(rows.sum())
      place = slice(filled[part], filled[part] + size)
      arrays[part][0][place], arrays[part][1][place] = user[rows], item[rows]
      filled[part] += size
  dataset = Dataset(
    train=Interactions(*arrays["train"], config.num_users, config.num_items),
    test=Interactions(*arrays["test"], config.num_users, config.num_items),
    users=Vocabulary.identity(config.num_users),
    items=Vocabulary.identity(config.num_items),
    name="synthetic",
    notes=str(config),
  )
  return Synthetic(config, dataset, user_cluster, item_cluster, weight)
