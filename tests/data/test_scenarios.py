"""Spam profiles and sensitive categories: what they add, what they forget, and what they leave as it was."""

import dataclasses

import numpy as np
import pytest

from jaxunlearn.data import Interactions
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.scenarios import bandwagon, sensitive_category
from jaxunlearn.data.synthetic import SyntheticConfig, generate
from jaxunlearn.data.vocabulary import Vocabulary

NUM_USERS, NUM_ITEMS = 200, 80


def dataset(kind="int"):
  rng = np.random.default_rng(0)
  item = np.minimum(rng.geometric(0.06, 3000) - 1, NUM_ITEMS - 1)  # a few popular items, a tail
  train = Interactions.from_pairs(rng.integers(0, NUM_USERS - 1, 3000), item, num_users=NUM_USERS, num_items=NUM_ITEMS)
  test = Interactions.from_pairs([3, 7], [79, 78], num_users=NUM_USERS, num_items=NUM_ITEMS)
  ids = [f"u{n}" for n in range(NUM_USERS)] if kind == "str" else 10 + np.arange(NUM_USERS)
  return Dataset(
    train=train, test=test, users=Vocabulary.from_ids(ids), items=Vocabulary.identity(NUM_ITEMS), name="toy"
  )


def pairs(interactions):
  return set(zip(interactions.user.tolist(), interactions.item.tolist(), strict=True))


@pytest.mark.parametrize("kind", ["int", "str"])
def test_spam_is_added_and_is_all_that_is_forgotten(kind):
  clean = dataset(kind)
  made = bandwagon(np.random.default_rng(1), clean, share=0.05, num_targets=3, num_popular=4)
  assert pairs(made.dataset.train) - pairs(made.forget) == pairs(clean.train)  # without it, the clean data
  assert not pairs(clean.train) & pairs(made.forget)
  assert set(made.forget.user.tolist()) == set(range(NUM_USERS, NUM_USERS + 10))  # 5 % of 200, whole profiles
  assert pairs(made.dataset.test) == pairs(clean.test) and made.dataset.num_users == NUM_USERS + 10
  assert made.dataset.users.decode(np.arange(NUM_USERS)).tolist() == clean.users.decode(np.arange(NUM_USERS)).tolist()
  assert NUM_USERS - 1 not in made.users and set(made.users.tolist()) == set(clean.train.user.tolist())


def test_a_profile_joins_the_targets_with_what_is_popular():
  clean = dataset()
  made = bandwagon(np.random.default_rng(1), clean, share=0.05, num_targets=3, num_popular=4, max_target_degree=6)
  degree = clean.train.item_degrees()
  assert made.items.size == 3 and np.all((degree[made.items] >= 1) & (degree[made.items] <= 6))
  popular = set(np.argsort(-degree, kind="stable")[:11].tolist())
  size = int(np.median(clean.train.user_degrees()[clean.train.user_degrees() > 0]))
  for user in range(NUM_USERS, NUM_USERS + 10):
    profile = set(made.forget.item[made.forget.user == user].tolist())
    assert len(profile) == max(size, 7) and set(made.items.tolist()) <= profile
    assert len(profile & popular) >= 4
  again = bandwagon(np.random.default_rng(1), clean, share=0.05, num_targets=3, num_popular=4, max_target_degree=6)
  assert again.forget.digest() == made.forget.digest()


def test_a_category_is_forgotten_by_those_who_ask_and_nobody_else():
  data, items = dataset(), np.array([0, 1, 2, 2])
  made = sensitive_category(np.random.default_rng(0), data, items, share=0.2, min_left=4)
  asking, wanted = set(made.users.tolist()), set()
  for user, item in pairs(data.train):
    if user in asking and item in (0, 1, 2):
      wanted.add((user, item))
  assert pairs(made.forget) == wanted and wanted
  assert {user for user, _ in wanted} == asking  # who asks has something to forget
  left = data.train.without(made.forget).user_degrees()
  assert all(left[user] >= 4 for user in asking) and made.items.tolist() == [0, 1, 2]
  own = {user: {item for u, item in pairs(data.train) if u == user} for user in range(NUM_USERS)}
  able = sum(1 for has in own.values() if has & {0, 1, 2} and len(has - {0, 1, 2}) >= 4)
  assert len(asking) == round(0.2 * able)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"share": 1.5}, "share=1.5"),
    ({"num_targets": 0}, "num_targets=0"),
    ({"num_targets": 70, "max_target_degree": 2}, "num_targets=70"),
  ],
)
def test_spam_that_cannot_be_made_is_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    bandwagon(np.random.default_rng(0), dataset(), **changes)


@pytest.mark.parametrize(
  ("items", "changes", "words"),
  [([0, 80], {}, "items in"), ([], {}, "users with a pair"), ([0], {"share": 0.0}, "share=0"),
   ([0], {"min_left": 1000}, "min_left=1000")],
)  # fmt: skip
def test_a_category_that_nobody_can_ask_for_is_refused(items, changes, words):
  with pytest.raises(ValueError, match=words):
    sensitive_category(np.random.default_rng(0), dataset(), np.array(items), **changes)


def test_spam_upon_spam_is_numbered_on():
  data = generate(SyntheticConfig(num_users=40, num_items=60, num_pairs=600)).dataset
  named = dataclasses.replace(data, users=Vocabulary([f"user-{n}" for n in range(data.num_users)]))
  once = bandwagon(np.random.default_rng(0), named, num_targets=1, num_popular=2).dataset
  twice = bandwagon(np.random.default_rng(1), once, num_targets=1, num_popular=2).dataset
  assert len(set(twice.users.ids.tolist())) == twice.num_users > once.num_users > data.num_users
