"""Datasets by name: real counts, where they are looked for, downloads from a local server, refusals."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import threading
import zipfile

import pytest

from jaxunlearn.data import datasets, load


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  """No test sees this machine's cache or data, unless it names them."""
  monkeypatch.setenv("JAXUNLEARN_CACHE", str(tmp_path / "cache"))
  monkeypatch.delenv("JAXUNLEARN_DATA", raising=False)


@pytest.mark.parametrize(
  ("name", "users", "items", "train", "test", "notes"),
  [
    ("ml-1m", 6_040, 3_883, 445_561, 129_687, "LightUL's split (ratings >= 4)"),
    ("ml-1m-receraser", 6_040, 3_706, 720_152, 200_041, "RecEraser's split (all ratings)"),
    ("gowalla", 29_858, 40_981, 810_128, 217_242, "LightGCN's split"),
    ("yelp2018", 31_668, 38_048, 1_237_259, 324_147, "LightGCN's split"),
  ],
)
def test_published_splits_have_their_counts(data_dir, name, users, items, train, test, notes):
  data = load(name, data_dir, download=False)
  assert (data.num_users, data.num_items, len(data.train), len(data.test)) == (users, items, train, test)
  assert (data.name, data.notes, data.duplicates, data.validation) == (name, notes, 0, None)
  assert len(data.train.intersection(data.test)) == 0


def test_ml_100k_is_split_by_seed(data_dir, monkeypatch):
  monkeypatch.setenv("JAXUNLEARN_DATA", str(data_dir))
  data = load("ml-100k", download=False)
  assert (data.num_users, data.num_items, len(data.all_pairs())) == (943, 1682, 100_000)
  degrees = data.all_pairs().user_degrees()
  assert data.test.user_degrees().tolist() == data.validation.user_degrees().tolist() == (degrees // 10).tolist()
  assert data.timestamp[0] == 874965758  # user 1, item 1
  assert (data.users.ids[0], data.items.ids[-1]) == (1, 1682)
  assert load("ml-100k", download=False).digest == data.digest != load("ml-100k", download=False, seed=1).digest
  liked = load("ml-100k", download=False, min_rating=4, ratios=(0.9, 0.0, 0.1), by="pair")
  assert (len(liked.all_pairs()), len(liked.test), liked.validation) == (55_375, 5_537, None)
  assert "min_rating=4" in liked.notes


def write_ratings(path, rows=20) -> None:
  """20 users × 20 items, ratings 1 to 5 in turn."""
  path.parent.mkdir(parents=True)
  path.write_text("".join(f"{u}::{i}::{(u + i) % 5 + 1}::{u * i}\n" for u in range(1, rows + 1) for i in range(1, 21)))


def test_rating_files_and_given_splits_of_ml_1m_are_told_apart(tmp_path):
  write_ratings(tmp_path / "a" / "ml-1m" / "ratings.dat")
  rated = load("ml-1m", tmp_path / "a", download=False)
  assert rated.name == "ml-1m-grouplens"
  assert len(rated.all_pairs()) == 160  # ratings 4 and 5
  assert "ratings.dat, min_rating=4.0" in rated.notes
  (tmp_path / "b" / "ml-1m").mkdir(parents=True)
  (tmp_path / "b" / "ml-1m" / "train.txt").write_text("0 1\n")
  given = load("ml-1m", tmp_path / "b", download=False)
  assert (given.name, len(given.train)) == ("ml-1m", 1)
  assert "not the published one" in given.notes


@pytest.mark.parametrize("folder", ["ml-10m", "ml-10M100K", "ml-10m/ml-10M100K"])
def test_ml_10m_folder_by_either_name(tmp_path, folder):
  write_ratings(tmp_path / folder / "ratings.dat")
  data = load("ml-10m", tmp_path, download=False, k_core=2)
  assert len(data.all_pairs()) == 400
  assert datasets.locate("ml-10m", tmp_path) == tmp_path / folder


def test_order_of_places(tmp_path, monkeypatch):
  for place, rows in (("given", 5), ("variable", 6), ("cache", 7)):
    write_ratings(tmp_path / place / "ml-10m" / "ratings.dat", rows)
  assert load("ml-10m", tmp_path / "given").num_users == 5
  assert load("ml-10m").num_users == 7
  monkeypatch.setenv("JAXUNLEARN_DATA", str(tmp_path / "variable"))
  assert load("ml-10m").num_users == 6
  assert load("ml-10m", tmp_path / "nothing here").num_users == 7  # data_dir stands in for the variable


def test_synthetic_takes_its_config(tmp_path):
  data = load("synthetic", num_users=50, num_items=40, num_pairs=500, seed=3)
  assert (data.num_users, len(data.all_pairs())) == (50, 500)
  with pytest.raises(ValueError, match="Did you mean 'num_users'"):
    load("synthetic", num_user=50)


@pytest.fixture
def publisher(tmp_path, monkeypatch):
  """A folder served over HTTP in place of the publishers."""
  folder = tmp_path / "www"
  folder.mkdir()

  class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
      """Keeps the test output quiet."""

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def publish(name, sums, algorithm):
      source = datasets._SOURCES[name]
      files = tuple(
        dataclasses.replace(
          file, url=f"http://127.0.0.1:{server.server_port}/{file.name}", **{algorithm: sums[file.name]}
        )
        for file in source.files
      )
      monkeypatch.setitem(datasets._SOURCES, name, dataclasses.replace(source, files=files))

    yield folder, publish
    server.shutdown()
    thread.join()


@pytest.mark.parametrize(
  ("name", "member", "pairs"),
  [("ml-1m", "ml-1m/ratings.dat", 160), ("ml-10m", "ml-10M100K/ratings.dat", 400)],
)
def test_an_archive_is_downloaded_once(tmp_path, publisher, name, member, pairs):
  folder, publish = publisher
  write_ratings(tmp_path / "source" / "ratings.dat")
  with zipfile.ZipFile(folder / f"{name}.zip", "w") as stored:
    stored.write(tmp_path / "source" / "ratings.dat", member)
  publish(name, {f"{name}.zip": hashlib.md5((folder / f"{name}.zip").read_bytes()).hexdigest()}, "md5")
  assert datasets.locate(name) is None
  assert len(load(name).all_pairs()) == pairs
  assert datasets.locate(name) == tmp_path / "cache" / name / member.split("/")[0]
  (folder / f"{name}.zip").unlink()
  assert len(load(name).all_pairs()) == pairs  # from the cache


def test_text_files_are_downloaded_and_checked(tmp_path, publisher):
  folder, publish = publisher
  (folder / "train.txt").write_text("0 1 2\n")
  (folder / "test.txt").write_text("0 3\n")
  sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("train.txt", "test.txt")}
  publish("gowalla", sums | {"test.txt": "0" * 64}, "sha256")
  with pytest.raises(ValueError, match="test.txt has sha256"):
    load("gowalla")
  publish("gowalla", sums, "sha256")
  assert len(load("gowalla").test) == 1


def test_a_folder_with_half_a_download_is_completed(tmp_path, publisher):
  folder, publish = publisher
  (folder / "train.txt").write_text("0 1 2\n")
  (folder / "test.txt").write_text("0 3\n")
  sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("train.txt", "test.txt")}
  publish("gowalla", sums, "sha256")
  (folder / "train.txt").rename(folder / "hidden")
  with pytest.raises(OSError, match="Could not download"):
    load("gowalla")
  (folder / "hidden").rename(folder / "train.txt")
  assert set(load("gowalla").parts()) == {"train", "test"}


def test_offline_says_where_to_put_the_files(tmp_path, monkeypatch):
  with pytest.raises(FileNotFoundError, match=r"Put ratings.dat, or train.txt .* in .*cache/ml-10m, or pass download"):
    load("ml-10m", download=False)
  monkeypatch.setenv("JAXUNLEARN_DATA", str(tmp_path / "mine"))
  source = datasets._SOURCES["yelp2018"]
  dead = tuple(dataclasses.replace(file, url="http://127.0.0.1:9/x") for file in source.files)
  monkeypatch.setitem(datasets._SOURCES, "yelp2018", dataclasses.replace(source, files=dead))
  with pytest.raises(OSError, match=r"Put train.txt and test.txt in .*mine/yelp2018 or .*cache/yelp2018. Could not"):
    load("yelp2018")


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: load("gowala"),
      "ml-1m-receraser.*, or a folder with train.txt and test.txt, which is not at .*gowala. Did you mean 'gowalla'",
    ),
    (lambda: datasets.locate("synthetic"), "name='synthetic'"),
  ],
)
def test_unknown_names(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_options_that_do_not_apply_are_refused(tmp_path):
  (tmp_path / "gowalla").mkdir()
  (tmp_path / "gowalla" / "train.txt").write_text("0 1\n")
  with pytest.raises(ValueError, match="takes no options, got 'seed'"):
    load("gowalla", tmp_path, seed=1)
  write_ratings(tmp_path / "ml-10m" / "ratings.dat")
  with pytest.raises(ValueError, match="Did you mean 'min_rating'"):
    load("ml-10m", tmp_path, min_ratings=3)


def test_a_split_of_ones_own_is_loaded_by_its_folder(tmp_path):
  (tmp_path / "shop").mkdir()
  (tmp_path / "shop" / "train.txt").write_text("0 1 2\n1 0\n")
  (tmp_path / "shop" / "test.txt").write_text("0 0\n")
  for name, data_dir in (("shop", tmp_path), (str(tmp_path / "shop"), None)):
    data = load(name, data_dir)
    assert (data.name, len(data.train), len(data.test)) == ("shop", 3, 1) and "shop" in data.notes
  with pytest.raises(ValueError, match="takes no options, got 'seed'"):
    load("shop", tmp_path, seed=1)
