"""The dataset value: shared axes, one digest."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxunlearn.data import Dataset, Interactions, Split, Vocabulary


def pairs(*rows: tuple[int, int]) -> Interactions:
  return Interactions.from_pairs([u for u, _ in rows], [i for _, i in rows], num_users=3, num_items=3)


def empty() -> Interactions:
  return Interactions.from_pairs(np.zeros(0, int), np.zeros(0, int), num_users=3, num_items=3)


def dataset(**changes) -> Dataset:
  given = {"train": pairs((0, 0), (1, 1)), "test": pairs((2, 2)), "users": Vocabulary.identity(3)}
  return Dataset(**(given | {"items": Vocabulary(["x", "y", "z"])} | changes))


def test_all_pairs_and_parts():
  value = dataset()
  assert set(value.parts()) == {"train", "test"}
  assert value.all_pairs().digest() == pairs((0, 0), (1, 1), (2, 2)).digest()
  assert repr(value) == "Dataset(dataset: 3 users × 3 items; train 2, test 1)"


def test_digest_covers_parts_and_vocabularies_but_not_the_name():
  value = dataset()
  assert dataset(name="other").digest == value.digest
  for change in (
    {"train": pairs((0, 0))},
    {"test": None},
    {"test": None, "validation": pairs((2, 2))},
    {"items": Vocabulary(["x", "z", "y"])},
  ):
    assert dataset(**change).digest != value.digest


def test_from_split_leaves_out_empty_parts():
  value = Dataset.from_split(Split(pairs((0, 0)), empty(), pairs((1, 1))))
  assert value.validation is None
  assert value.users == Vocabulary.identity(3)


def test_axes_and_timestamps_must_fit():
  with pytest.raises(ValueError, match="Expected test over 3 users × 3 items"):
    dataset(test=Interactions.from_pairs([0], [0], num_users=3, num_items=4))
  with pytest.raises(ValueError, match="one timestamp for each of 3 pairs"):
    dataset(timestamp=np.zeros(2))
  with pytest.raises(dataclasses.FrozenInstanceError):
    dataset().name = "x"
