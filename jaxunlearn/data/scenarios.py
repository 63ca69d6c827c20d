"""Requests with a story: injected spam profiles, a sensitive category. What is forgotten, what must not show then."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from jaxunlearn._validate import check_fraction, check_positions, check_whole
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.data.vocabulary import Vocabulary


class Scenario(NamedTuple):
  """A request and its yardstick: how many of `users` are recommended one of `items` (`metrics.exposure`).

  Attributes:
    dataset: what is trained on; with spam, the fake profiles included.
    forget: pairs of `dataset.train`.
    users: int32, positions of the users to look at.
    items: int32, positions of the items that they should not be shown more often than after retraining.
  """

  dataset: Dataset
  forget: Interactions
  users: np.ndarray
  items: np.ndarray


def bandwagon(
  rng: np.random.Generator,
  dataset: Dataset,
  *,
  share: float = 0.01,
  num_targets: int = 5,
  num_popular: int = 20,
  max_target_degree: int = 10,
) -> Scenario:
  """Spam: fake profiles that join unpopular target items with what everyone likes; all of them are to be forgotten.

  A fake user has every target, `num_popular` of the most popular items (of twice as many and `num_targets`, at random)
  and random fillers up to the median degree of real users. Fake users come after the real ones on the user axis and
  have no test pairs.

  Args:
    rng: of targets and profiles.
    dataset: the clean data; real users keep their positions.
    share: fake users as a share of the real ones, in (0, 1), at least one of them.
    num_targets: items that are promoted, ≥ 1.
    num_popular: popular items of a profile, ≥ 1.
    max_target_degree: targets are drawn from items with 1 to this many pairs, ≥ 1.

  Returns:
    The scenario; its users are all real users, its items the targets.

  Raises:
    ValueError: a number out of range, or fewer than `num_targets` items are that unpopular.
  """
  check_fraction("share", share)
  for name, value in (
    ("num_targets", num_targets),
    ("num_popular", num_popular),
    ("max_target_degree", max_target_degree),
  ):
    check_whole(name, value)
  train = dataset.train
  degree = train.item_degrees()
  unpopular = np.flatnonzero((degree >= 1) & (degree <= max_target_degree))
  if unpopular.size < num_targets:
    raise ValueError(
      f"Expected num_targets={num_targets} items with 1 to max_target_degree={max_target_degree} pairs, found "
      f"{unpopular.size}; raise max_target_degree."
    )
  targets = np.sort(rng.choice(unpopular, num_targets, replace=False)).astype(np.int32)
  num_fake = max(1, round(share * train.num_users))
  real_degree = train.user_degrees()
  size = min(train.num_items, max(num_targets + num_popular, int(np.median(real_degree[real_degree > 0]))))
  popular = np.setdiff1d(np.argsort(-degree, kind="stable")[: 2 * num_popular + num_targets], targets)
  profiles = []
  for _ in range(num_fake):
    chosen = np.concatenate([targets, rng.choice(popular, min(num_popular, popular.size), replace=False)])
    rest = np.setdiff1d(np.arange(train.num_items), chosen)
    profiles.append(np.concatenate([chosen, rng.choice(rest, size - chosen.size, replace=False)]))
  fake_user = train.num_users + np.repeat(np.arange(num_fake), [len(profile) for profile in profiles])
  num_users = train.num_users + num_fake

  def widened(pairs: Interactions) -> Interactions:
    return Interactions.from_pairs(pairs.user, pairs.item, num_users=num_users, num_items=pairs.num_items)

  fake = Interactions.from_pairs(fake_user, np.concatenate(profiles), num_users=num_users, num_items=train.num_items)
  users = dataset.users.decode(np.arange(train.num_users))
  made: Any = users.max() + 1 + np.arange(num_fake) if dataset.users.kind != "str" else _new_names(users, num_fake)
  spammed = dataclasses.replace(
    dataset,
    train=widened(train).union(fake),
    validation=None if dataset.validation is None else widened(dataset.validation),
    test=None if dataset.test is None else widened(dataset.test),
    users=Vocabulary(np.concatenate([users, np.asarray(made)])),  # in this order: from_ids sorts
    name=f"{dataset.name}-spam",
    timestamp=None,
  )
  return Scenario(spammed, fake, np.flatnonzero(real_degree > 0).astype(np.int32), targets)


def _new_names(users: np.ndarray, count: int) -> list[str]:
  """spam-0, spam-1, …, numbered on from those that are there."""
  first = 1 + max(
    [int(n) for name in users.tolist() if (n := name.removeprefix("spam-")) != name and n.isdigit()] or [-1]
  )
  return [f"spam-{n}" for n in range(first, first + count)]


def sensitive_category(
  rng: np.random.Generator, dataset: Dataset, items: np.ndarray, *, share: float = 0.05, min_left: int = 5
) -> Scenario:
  """A sensitive category: some users ask to forget all of their pairs with its items; the rest of them stays.

  Args:
    rng: of the users that ask.
    dataset: the data.
    items: int positions of the category's items.
    share: of the users with a pair in the category and `min_left` outside it, those who ask, in (0, 1); at least one.
    min_left: pairs that someone who asks has left, ≥ 1.

  Returns:
    The scenario; its users are those who asked, its items the category.

  Raises:
    ValueError: a number or an item out of range, or nobody has such pairs.
  """
  check_fraction("share", share)
  check_whole("min_left", min_left)
  check_positions("items", np.asarray(items))
  train, items = dataset.train, np.unique(np.asarray(items, np.int64))
  if items.size and not (0 <= items[0] and items[-1] < train.num_items):
    raise ValueError(f"Expected items in [0, {train.num_items}), got {items[0]} to {items[-1]}.")
  inside = np.isin(train.item, items)
  of_user = np.bincount(train.user[inside], minlength=train.num_users)
  able = np.flatnonzero((of_user > 0) & (train.user_degrees() - of_user >= min_left))
  if not able.size:
    raise ValueError(f"Expected users with a pair among the {items.size} items and min_left={min_left} others.")
  asking = np.sort(rng.choice(able, max(1, round(share * able.size)), replace=False)).astype(np.int32)
  forget = train.select(inside & np.isin(train.user, asking))
  return Scenario(dataset, forget, asking, items.astype(np.int32))
