"""Vocabularies against a Python dict."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from jaxunlearn.data import Vocabulary

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
id_lists = st.one_of(st.lists(st.integers(-(2**63), 2**63 - 1)), st.lists(text))


@given(id_lists)
def test_encode_is_a_dict_lookup_and_decode_its_inverse(ids):
  vocabulary = Vocabulary.from_ids(ids)
  position = {raw: at for at, raw in enumerate(sorted(set(ids)))}
  encoded = vocabulary.encode(ids)
  assert encoded.dtype == np.int32
  assert encoded.tolist() == [position[raw] for raw in ids]
  assert vocabulary.decode(encoded).tolist() == ids
  assert len(vocabulary) == len(position)


@given(st.lists(st.integers(0, 20), unique=True), st.lists(st.integers(0, 20)))
def test_unknown_ids_become_minus_one_or_an_error(known, asked):
  vocabulary = Vocabulary(known)  # keeps the given order, unlike from_ids
  expected = [known.index(raw) if raw in known else -1 for raw in asked]
  assert vocabulary.encode(asked, missing="ignore").tolist() == expected
  unknown = list(dict.fromkeys(raw for raw in asked if raw not in known))
  if unknown:
    with pytest.raises(ValueError, match=f"Unknown ids: {', '.join(map(str, unknown[:5]))}"):
      vocabulary.encode(asked)


def test_the_first_five_unknown_ids_are_named_and_the_rest_counted():
  with pytest.raises(ValueError, match="'b', 'c', 'd', 'e', 'f' and 2 more. Drop them"):
    Vocabulary.from_ids(["a"]).encode(list("abcdefghb"))


@given(id_lists, id_lists)
def test_equality_hash_and_digest_agree(a, b):
  first, second = Vocabulary.from_ids(a), Vocabulary.from_ids(b)
  same = set(a) == set(b) and first.kind == second.kind
  assert (first == second) == (first.digest == second.digest) == same
  assert not same or hash(first) == hash(second)


def test_order_is_part_of_equality():
  assert Vocabulary([1, 2]) != Vocabulary([2, 1])
  assert Vocabulary([1, 2]).digest != Vocabulary([2, 1]).digest


@given(id_lists)
def test_json_round_trip(ids):
  vocabulary = Vocabulary.from_ids(ids)
  assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


def test_identity_is_short_in_json():
  assert Vocabulary.identity(3).to_json() == {"kind": "identity", "size": 3}
  assert Vocabulary.identity(3).encode([2, 0]).tolist() == [2, 0]


@pytest.mark.parametrize("value", [{}, {"kind": "int"}, {"kind": "str", "ids": [1]}, {"kind": "int", "ids": [1.5]}])
def test_from_json_refuses(value):
  with pytest.raises(ValueError, match="Expected"):
    Vocabulary.from_json(value)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: Vocabulary.from_ids([1, "a"]), "all integers or all strings, got a string, an integer"),
    (lambda: Vocabulary.from_ids([True]), "got bool"),
    (lambda: Vocabulary.from_ids([0.5]), "got float"),
    (lambda: Vocabulary.from_ids(np.array([0.5])), "got float64"),
    (lambda: Vocabulary.from_ids([2**63]), "within int64"),
    (lambda: Vocabulary.from_ids(np.zeros((2, 2), int)), "one dimension"),
    (lambda: Vocabulary([3, 3]), "distinct ids, got 3 more than once"),
    (lambda: Vocabulary.identity(-1), "size=-1 to be a whole number >= 0"),
    (lambda: Vocabulary.identity(2.5), "size=2.5 to be a whole number >= 0"),
    (lambda: Vocabulary.from_ids([1]).encode(["1"]), "Expected int ids, got str ids such as '1'"),
    (lambda: Vocabulary.from_ids(["1"]).encode([1]), "Expected str ids, got int ids such as 1"),
    (lambda: Vocabulary.from_ids([1]).encode([1], missing="skip"), "missing='skip'"),
    (lambda: Vocabulary.from_ids([1]).decode([-1]), r"positions in \[0, 1\), got \[-1\]"),
    (lambda: Vocabulary.from_ids([1]).decode([1]), r"got \[1\]"),
  ],
)
def test_refusals(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_ids_cannot_be_changed_behind_the_lookup():
  source = np.array([5, 6])
  vocabulary = Vocabulary(source)
  source[0] = 9
  assert vocabulary.ids.tolist() == [5, 6]
  with pytest.raises(ValueError, match="read-only"):
    vocabulary.ids[0] = 1


def test_an_id_that_numpy_would_cut_is_refused():
  """A trailing NUL is dropped in an array of strings: an unknown id would be somebody else's."""
  with pytest.raises(ValueError, match="do not end in a NUL"):
    Vocabulary(["a", "b"]).encode(["a\0"])
