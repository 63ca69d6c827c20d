"""The `user item item …` form: against a plain parser, real counts, and every way a line can be wrong."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from jaxunlearn.data import Interactions, lightgcn_text, read_folder, read_pairs, write_lightgcn_text

lines = st.lists(st.tuples(st.integers(0, 9), st.lists(st.integers(0, 2**31 - 2), max_size=4)), min_size=1)


@given(lines, st.sampled_from([" ", "  ", "\t"]), st.sampled_from(["\n", "\r\n", " \n", "\n\n"]), st.integers(1, 40))
def test_reads_what_a_plain_parser_reads(tmp_path_factory, lines, space, end, chunk):
  path = tmp_path_factory.mktemp("text") / "train.txt"
  path.write_text(end.join(space.join(map(str, [user, *items])) for user, items in lines), newline="")
  pairs = sorted({(user, item) for user, items in lines for item in items})
  with pytest.MonkeyPatch.context() as patch:  # small pieces, so that lines fall across their borders
    patch.setattr(lightgcn_text, "_CHUNK_BYTES", chunk)
    if not pairs:
      with pytest.raises(ValueError, match="holds no pair"):
        read_pairs(path)
      return
    found = read_pairs(path)
  assert list(zip(found.user.tolist(), found.item.tolist(), strict=True)) == pairs
  assert found.num_users == max(user for user, _ in lines) + 1  # users without items count
  assert found.num_items == max(item for _, item in pairs) + 1


@given(st.sets(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1))
def test_write_then_read_is_the_identity(tmp_path_factory, pairs):
  folder = tmp_path_factory.mktemp("text")
  rows = sorted(pairs)
  value = Interactions.from_pairs([u for u, _ in rows], [i for _, i in rows], num_users=40, num_items=50)
  write_lightgcn_text(folder / "out.txt", value)
  assert read_pairs(folder / "out.txt", num_users=40, num_items=50).digest() == value.digest()
  assert [p.name for p in folder.iterdir()] == ["out.txt"]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("0 1\n1 x 2\n", r"line 2: '1 x 2': 'x' is not a position; expected `user item item"),
    ("0 1\n\n2 -3\n", r"line 3: '2 -3': negative position -3"),
    ("0 1,2\n", r"line 1: '0 1,2': '1,2' is not a position"),
    ("0 1.5\n", r"'1.5' is not a position"),
    ("0 2147483647\n", r"position '2147483647' is beyond int32.*up to 2147483646"),
    ("0 99999999999999999999\n", r"line 1.*beyond int32"),
    ("0 1\n" + "7" * 100 + " 1\n", r"line 2: '7777.*…"),
    ("0 1\n1 \u00e9\n", "line 2"),
    (
      "0 1 2\n1 3\r2 5\n",
      r"line 2: '1 3\\r2 5': a carriage return within the line.*a line a user. Convert the line ends",
    ),
    ("0 1 2\r1 3 4\r", "line 1: .*a carriage return within the line"),
    ("0\n1\n", "holds no pair"),
    ("", "is empty"),
  ],
)
def test_a_bad_line_is_named(tmp_path, text, message):
  path = tmp_path / "train.txt"
  path.write_bytes(text.encode())
  with pytest.raises(ValueError, match=message) as caught:
    read_pairs(path)
  assert "train.txt" in str(caught.value)
  assert len(str(caught.value)) < 400  # the offending text is shortened


def test_line_numbers_hold_beyond_the_first_chunk(tmp_path, monkeypatch):
  monkeypatch.setattr(lightgcn_text, "_CHUNK_BYTES", 16)
  path = tmp_path / "train.txt"
  path.write_text("".join(f"{user} 1 2\n" for user in range(9)) + "9 z\n")
  with pytest.raises(ValueError, match="line 10: '9 z'"):
    read_pairs(path)


def test_leading_zeros_are_no_overflow(tmp_path):
  (tmp_path / "t.txt").write_text("0 " + "0" * 12 + "5\n")
  assert read_pairs(tmp_path / "t.txt").item.tolist() == [5]


def test_positions_beyond_the_given_axes_are_refused(tmp_path):
  (tmp_path / "forget.txt").write_text("3 4\n")
  assert read_pairs(tmp_path / "forget.txt", num_users=9, num_items=8).num_users == 9
  with pytest.raises(ValueError, match="user position 3, but there are 3 users"):
    read_pairs(tmp_path / "forget.txt", num_users=3)
  with pytest.raises(ValueError, match="item position 4, but there are 4 items"):
    read_pairs(tmp_path / "forget.txt", num_items=4)


def test_folder_shares_axes_and_counts_duplicates(tmp_path):
  (tmp_path / "train.txt").write_text("0 1 1\n2 0\n0 1\n")
  (tmp_path / "valid.txt").write_text("1 7\n")
  (tmp_path / "test.txt").write_text("0 2\n5\n")
  value = read_folder(tmp_path, name="mine")
  assert (value.num_users, value.num_items, value.duplicates, value.name) == (6, 8, 2, "mine")
  assert [len(part) for part in value.parts().values()] == [2, 1, 1]
  assert read_folder(tmp_path).name == tmp_path.name


def test_folder_warns_of_a_test_pair_in_train(tmp_path):
  (tmp_path / "train.txt").write_text("0 1 2\n")
  (tmp_path / "test.txt").write_text("0 2\n")
  with pytest.warns(UserWarning, match="1 pairs of .*test.txt are in .*train.txt"):
    read_folder(tmp_path)


def test_missing_files_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="train.txt, found nothing"):
    read_folder(tmp_path)
  with pytest.raises(FileNotFoundError, match="found a folder"):
    read_pairs(tmp_path)
  with pytest.raises(OSError, match="Could not write .*absent/x.txt"):
    write_lightgcn_text(tmp_path / "absent" / "x.txt", Interactions.from_pairs([0], [0]))


@pytest.mark.parametrize("name", ["ml-1m", "gowalla", "yelp2018"])
def test_published_forget_sets_are_part_of_train(data_dir, name):
  train = read_folder(data_dir / name).train
  for by in ("intr", "user", "item"):
    forget = read_pairs(
      data_dir / name / "forget" / f"{by}_0.01.txt", num_users=train.num_users, num_items=train.num_items
    )
    assert train.contains(forget).all()
    # LightUL's rule: at least one hundredth, and whole users or items beyond that.
    assert len(train) // 100 <= len(forget) < len(train) // 100 * (1.001 if by == "intr" else 1.3)
    assert len(train.without(forget)) == len(train) - len(forget)
    if by != "intr":
      entity = getattr(forget, by)
      assert np.isin(getattr(train, by), entity).sum() == len(forget)
