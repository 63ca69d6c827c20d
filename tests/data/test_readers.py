"""Table readers: each form, each way a line can be wrong, and agreement with Python's own csv module."""

from __future__ import annotations

import csv

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given

from jaxunlearn.data import index_ratings, read_csv, read_inter, read_movielens, read_parquet


def columns(table):
  rating = None if table.rating is None else table.rating.tolist()
  timestamp = None if table.timestamp is None else table.timestamp.tolist()
  return table.user_ids.tolist(), table.item_ids.tolist(), rating, timestamp


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("u.data", "3\t1\t4.5\t100\n1\t2\t3\t99\n"),
    ("u1.base", "3\t1\t4.5\t100\r\n1\t2\t3\t99\r\n"),
    ("ratings.dat", "3::1::4.5::100\n\n1::2::3::99"),
    ("ratings.csv", "userId,movieId,rating,timestamp\n3,1,4.5,100\n1,2,3,99\n"),
  ],
)
def test_movielens_forms(tmp_path, name, text):
  (tmp_path / name).write_bytes(text.encode())
  table = read_movielens(tmp_path / name)
  assert columns(table) == ([3, 1], [1, 2], [4.5, 3.0], [100, 99])
  assert (table.user_ids.dtype, table.rating.dtype, table.timestamp.dtype) == (np.int64, np.float32, np.int64)


GOOD = "1::2::3::4\n"


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("1::2::3", r"line 2: '1::2::3' has 3 fields; expected `user::item::rating::timestamp` \(4 fields\).$"),
    ("1\t2\t3\t4", r"has 1 fields; .* It seems to be separated by '\\t', not '::': use the reader of that form"),
    ("1:x:2::3::4", "line 2: .* has 3 fields"),
    ("1::2::3::4::5", "has 5 fields"),
    ("-1::2::3::4", "line 2: '-1::2::3::4': negative user id -1"),
    ("1::-2::3::4", "negative item id -2"),
    ("1::b::3::4", "item id 'b' is not an integer; for other ids use read_csv"),
    ("1::2.0::3::4", "item id '2.0' is not an integer"),
    ("1::99999999999999999999::3::4", "beyond int64"),
    ("::2::3::4", "the user is missing"),
    ("1::2::::4", "the rating is missing"),
    ("1::2::good::4", "the rating 'good' is not a number"),
    ("1::2::nan::4", "the rating is nan"),
    ("1::2::-inf::4", "the rating is -inf"),
    ("1::2::1e50::4", "the rating '1e50' is too large"),
    ("1::2::3::", "the timestamp is missing"),
    ("1::2::3::noon", "the timestamp 'noon' is not a number"),
    ("\udcff::2::3::4", "is not UTF-8"),
  ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
  path = tmp_path / "ratings.dat"
  path.write_bytes((GOOD + line + "\n" + GOOD).encode("utf-8", "surrogateescape"))
  with pytest.raises(ValueError, match=message) as caught:
    read_movielens(path)
  assert f"{path}, line 2" in str(caught.value)


def test_the_line_number_counts_blank_lines_and_the_header(tmp_path):
  (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3,4\n\n1,2,x,4\n")
  with pytest.raises(ValueError, match="line 4: '1,2,x,4'"):
    read_movielens(tmp_path / "ratings.csv")


@pytest.mark.parametrize(("text", "message"), [("", "is empty"), ("\n\n", "holds no ratings")])
def test_empty_files_are_refused(tmp_path, text, message):
  (tmp_path / "u.data").write_text(text)
  with pytest.raises(ValueError, match=message):
    read_movielens(tmp_path / "u.data")


def test_unknown_forms_are_refused(tmp_path):
  with pytest.raises(ValueError, match="named u.data, ratings.dat or ratings.csv, got x.txt"):
    read_movielens(tmp_path / "x.txt")
  with pytest.raises(FileNotFoundError, match="u.data, found nothing"):
    read_movielens(tmp_path / "u.data")


def test_inter_reads_what_is_there(tmp_path):
  path = tmp_path / "x.inter"
  path.write_text('item_id:token\tuser_id:token\tnote:token\ttimestamp:float\n7\tbob\t"a\t1.5\n8\tann\tb\t2\n')
  assert columns(read_inter(path)) == (["bob", "ann"], [7, 8], None, [1.5, 2.0])


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("user_id\titem_id\n1\t2\n", "line 1: .* is not a typed header; expected tab-separated `name:type`"),
    ("user_id:token\titem:token\n1\t2\n", "no column named 'item_id'"),
    ("user_id:token\titem_id:token\trating:float\n1\t2\tx\n", "line 2: .*rating 'x' is not a number"),
    ("user_id:token\titem_id:token\n1\n", "has 1 fields"),
    ("user_id:token\titem_id:token\n", "holds no ratings"),
  ],
)
def test_inter_refuses(tmp_path, text, message):
  (tmp_path / "x.inter").write_text(text)
  with pytest.raises(ValueError, match=message):
    read_inter(tmp_path / "x.inter")


ids = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=5)


@given(st.lists(st.tuples(ids, st.integers(0, 10**17), st.floats(-9, 9, width=32)), min_size=1), st.sampled_from(",;|"))
def test_csv_agrees_with_the_csv_module(tmp_path_factory, rows, separator):
  path = tmp_path_factory.mktemp("csv") / "x.csv"
  with open(path, "w", newline="", encoding="utf-8") as handle:
    writer = csv.writer(handle, delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writerow(["who", "extra, column", "what", "stars"])
    writer.writerows([user, "-", item, rating] for user, item, rating in rows)
  table = read_csv(path, user="who", item="what", rating="stars", separator=separator)
  users = [user for user, _, _ in rows]
  if all(u == "0" or (u.isascii() and u.isdigit() and u[0] != "0") for u in users):
    users = [int(u) for u in users]
  assert columns(table) == (users, [item for _, item, _ in rows], [rating for _, _, rating in rows], None)


@pytest.mark.parametrize(
  ("items", "expected"),
  [
    (["1", "20"], [1, 20]),
    (["007", "8"], ["007", "8"]),  # zeros in front carry meaning, so these stay text
    (["-7", "a"], ["-7", "a"]),
    (["NA", "null"], ["NA", "null"]),
    (["9223372036854775808", "1"], ["9223372036854775808", "1"]),
  ],
)
def test_csv_infers_integer_ids_only_where_nothing_is_lost(tmp_path, items, expected):
  (tmp_path / "x.csv").write_text("user_id,item_id\n" + "".join(f"1,{item}\n" for item in items))
  assert read_csv(tmp_path / "x.csv").item_ids.tolist() == expected


def test_csv_dates_become_seconds(tmp_path):
  text = "\ufeffuser_id,item_id,at\n1,2,1970-01-01 00:01:00\n1,3,1970-01-02\n"  # with the mark some exports start with
  (tmp_path / "x.csv").write_text(text, encoding="utf-8")
  assert read_csv(tmp_path / "x.csv", timestamp="at").timestamp.tolist() == [60, 86400]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("user_id,item\n1,2\n", "line 1: 'user_id, item' has no column named 'item_id'; pass the name of the item column"),
    ("user_id,item_id,item_id\n1,2,3\n", "more than one column named 'item_id'"),
    ("user_id,item_id\n1,2,3\n", "line 2: '1,2,3' has 3 fields"),
    ("user_id,item_id\n1,2\n1,-7\n", "line 3: '1,-7': negative item id -7"),
    ("user_id,item_id\n,7\n", "line 2: ',7': the user is missing"),
    ("user_id,item_id\n", "holds no ratings"),
    ("user_id,item_id,at\n1,2,2020-01-01\n1,2,soon\n", "line 3"),
    ("user_id,item_id,at\n1,2,\n", "the timestamp is missing"),
    ("user_id,item_id,at\n1,2,2020-01-01\n1,3,978300760\n",
     r"line 3: the timestamp '978300760' is a number, that of line 2 \('2020-01-01'\) is a date; write all in one way"),
    ("user_id;item_id\n1;2\n", "pass the name of the user column. It seems to be separated by ';', not ','"),
    ("user_id\n1\n", "no column named 'item_id'; pass the name of the item column.$"),
    ("user_id,item_id\r1,2\r", r"line 1: .*If its lines end in carriage returns alone, convert them \(tr "),
    ("user_id,item_id,at\n1,2,12:30:00\n", "line 2: .*the timestamp '12:30:00' is neither a number nor an ISO date"),
  ],
)  # fmt: skip
def test_csv_refuses(tmp_path, text, message):
  (tmp_path / "x.csv").write_text(text)
  with pytest.raises(ValueError, match=message):
    read_csv(tmp_path / "x.csv", timestamp="at" if ",at" in text else None)


def test_csv_separator_is_one_character(tmp_path):
  with pytest.raises(ValueError, match="separator of one character, got '::'"):
    read_csv(tmp_path / "x.csv", separator="::")


def write_parquet(path, **data):
  pyarrow.parquet.write_table(pa.table(data), path)
  return path


def test_parquet_reads_named_columns(tmp_path):
  path = write_parquet(
    tmp_path / "x.parquet",
    user_id=pa.array(["b", "a", "b"]).dictionary_encode(),
    item_id=pa.array([3, 4, 3], pa.int32()),
    stars=[1.0, 2.5, 3.0],
    at=pa.array([0, 1000, 2000], pa.timestamp("ms")),
    other=[None, 1, 2],
  )
  table = read_parquet(path, rating="stars", timestamp="at")
  assert columns(table) == (["b", "a", "b"], [3, 4, 3], [1.0, 2.5, 3.0], [0, 1, 2])
  assert index_ratings(table).duplicates == 1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"user_id": [1, None]}, "column 'user_id', row 2: missing id"),
    ({"item_id": [-1, 2]}, "column 'item_id', row 1: negative id"),
    ({"item_id": [0.5, 2.0]}, "column 'item_id': ids of type double"),
    ({"stars": [1.0, float("nan")]}, "column 'stars', row 2: rating that is not finite"),
    ({"stars": ["x", "y"]}, "column 'stars': rating of type string"),
    ({"stars": [None, 1.0]}, "column 'stars', row 1: missing rating"),
    ({"stars": pa.array([1, 2], pa.time32("s"))}, r"column 'stars': rating of type time32"),
    ({"stars": pa.array([1, 2], pa.duration("s"))}, r"column 'stars': rating of type duration"),
  ],
)
def test_parquet_refuses(tmp_path, changes, message):
  good = {"user_id": [1, 2], "item_id": [3, 4], "stars": [1.0, 2.0]}
  path = write_parquet(tmp_path / "x.parquet", **(good | changes))
  with pytest.raises(ValueError, match=message):
    read_parquet(path, rating="stars")


def test_parquet_refuses_other_files_and_columns(tmp_path):
  (tmp_path / "x.parquet").write_text("user_id,item_id\n")
  with pytest.raises(ValueError, match="is not a Parquet file"):
    read_parquet(tmp_path / "x.parquet")
  with pytest.raises(ValueError, match="no column named 'item_id'"):
    read_parquet(write_parquet(tmp_path / "y.parquet", user_id=[1]))
  with pytest.raises(ValueError, match="holds no ratings"):
    empty = pa.array([], pa.int64())
    read_parquet(write_parquet(tmp_path / "z.parquet", user_id=empty, item_id=empty))


def test_every_line_of_a_larger_file_is_read(tmp_path):
  rng = np.random.default_rng(0)
  user, item, rating = rng.integers(0, 500, 50_000), rng.integers(0, 900, 50_000), rng.integers(1, 11, 50_000) / 2
  path = tmp_path / "ratings.dat"
  rows = enumerate(zip(user, item, rating, strict=True))
  path.write_text("".join(f"{u}::{i}::{r:g}::{n}\n" for n, (u, i, r) in rows))
  table = read_movielens(path)
  np.testing.assert_array_equal(table.user_ids, user)
  np.testing.assert_array_equal(table.item_ids, item)
  np.testing.assert_array_equal(table.rating, rating.astype(np.float32))
  np.testing.assert_array_equal(table.timestamp, np.arange(50_000))


def test_real_ml_100k(data_dir):
  table = read_inter(data_dir / "ml-100k" / "ml-100k.inter")
  indexed = index_ratings(table)
  assert (len(table), len(indexed.users), len(indexed.items), indexed.duplicates) == (100_000, 943, 1682, 0)
  assert columns(table)[0][:2] == [196, 186]
  assert len(index_ratings(table, min_rating=4).interactions) == 34_174 + 21_201
