"""Datasets by name: found in a folder or the cache, else downloaded from their publisher.

Their licences are the publishers' own; nothing here redistributes data.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxunlearn._validate import check_choice
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.download import download as download_file
from jaxunlearn.data.download import extract_zip, file_digest
from jaxunlearn.data.lightgcn_text import read_folder
from jaxunlearn.data.ratings import RatingTable, index_ratings
from jaxunlearn.data.readers import read_inter, read_movielens
from jaxunlearn.data.splits import random_split
from jaxunlearn.data.synthetic import SyntheticConfig, generate

DATA_VARIABLE = "JAXUNLEARN_DATA"
CACHE_VARIABLE = "JAXUNLEARN_CACHE"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
  """One file of a publisher, and the sum it must have."""

  url: str
  name: str  # file name in the cache folder
  sha256: str | None = None
  md5: str | None = None
  member: str | None = None  # the one file wanted from a zip archive


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Source:
  """Where a dataset comes from, and how a rating file of it is read when the caller says nothing."""

  files: tuple[_File, ...]
  folders: tuple[str, ...] = ()  # other names its folder goes by
  min_rating: float | None = None
  rated_name: str | None = None  # Dataset.name when made from ratings, where the plain name means a published split
  split: tuple[str, str, str] | None = None  # whose split it is, SHA-256 of its train.txt and of its test.txt


_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_LIGHTGCN = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/master/data"
_RECERASER = (
  "https://raw.githubusercontent.com/chenchongthu/Recommendation-Unlearning/"
  "57de48e21f1a338438bf6bd8f77fab0f4de15453/data/ml-1m"
)


def _published_split(base: str, whose: str, train: str, test: str) -> _Source:
  return _Source(
    files=(  # train.txt last: by it a folder is recognised, so a download that broke half way is taken up again
      _File(url=f"{base}/test.txt", name="test.txt", sha256=test),
      _File(url=f"{base}/train.txt", name="train.txt", sha256=train),
    ),
    split=(whose, train, test),
  )


# MD5 sums are GroupLens's own (<archive>.md5 beside each archive); SHA-256 sums are of the files as released.
_SOURCES: dict[str, _Source] = {
  "ml-100k": _Source(
    files=(
      _File(
        url=f"{_GROUPLENS}/ml-100k.zip",
        name="ml-100k.zip",
        md5="0e33842e24a9c977be4e0107933c0723",
        member="ml-100k/u.data",
      ),
    ),
  ),
  "ml-1m": _Source(
    files=(
      _File(
        url=f"{_GROUPLENS}/ml-1m.zip",
        name="ml-1m.zip",
        md5="c4d9eecfca2ab87c1945afe126590906",
        member="ml-1m/ratings.dat",
      ),
    ),
    min_rating=4.0,  # LightUL's split, the other form this dataset comes in, holds ratings of 4 and 5 only
    rated_name="ml-1m-grouplens",
    split=(
      "LightUL's split (ratings >= 4)",
      "df7fb2d54038e1390aca5a6e8fd02fd7d29537daf09fb62f4e0e28f78eef2c54",
      "1aaf0add16f6a6dff5677b3d01b685aaed3486947dbf18cf5e6e66d8735dd99f",
    ),
  ),
  "ml-1m-receraser": _published_split(
    _RECERASER,
    "RecEraser's split (all ratings)",
    "c74ca36cdff687523a151f25ae24a8e93f52906d599e446625a393fdb06443d7",
    "0ea4825f0016fffc2b44329ef3617efbf6a3c3ba6e145c48b7a8b46b7313d5c5",
  ),
  "ml-10m": _Source(
    files=(
      _File(
        url=f"{_GROUPLENS}/ml-10m.zip",
        name="ml-10m.zip",
        md5="ce571fd55effeba0271552578f2648bd",
        member="ml-10M100K/ratings.dat",
      ),
    ),
    folders=("ml-10M100K",),
  ),
  "gowalla": _published_split(
    f"{_LIGHTGCN}/gowalla",
    "LightGCN's split",
    "0f086326b28a56c2e6dcb81d86ee72d4ccb7eed3a8d26788392356d8f51111cc",
    "099a2a73924e4b754dc6efd730d764f492321b53c38eb93298850c83acf57be3",
  ),
  "yelp2018": _published_split(
    f"{_LIGHTGCN}/yelp2018",
    "LightGCN's split",
    "5588ebbcbf9ab10cdf7a70aa300f2ef781030daa2a94ef0685598ed051a398da",
    "9cd9b37926cd1447a06625ffa7914527573fb097c10cb0bbdb1d1b8ded3742fe",
  ),
}

NAMES: tuple[str, ...] = (*_SOURCES, "synthetic")


def cache_dir() -> Path:
  """Where downloads are kept: `$JAXUNLEARN_CACHE`, else `~/.cache/jaxunlearn`."""
  configured = os.environ.get(CACHE_VARIABLE)
  return Path(configured) if configured else Path.home() / ".cache" / "jaxunlearn"


def _data_file(folder: Path, name: str) -> Path | None:
  """`train.txt` of a given split, else the rating file, directly in `folder` or where the archive unpacks to."""
  for place in (folder, folder / name, folder / "ml-10M100K"):
    for candidate in ("train.txt", f"{name}.inter", "ratings.dat", "u.data", "ratings.csv"):
      if (place / candidate).is_file():
        return place / candidate
  return None


def _roots(data_dir: str | os.PathLike[str] | None) -> list[Path]:
  given = data_dir if data_dir is not None else os.environ.get(DATA_VARIABLE)
  return ([Path(given)] if given else []) + [cache_dir()]


def _find(name: str, data_dir: str | os.PathLike[str] | None) -> Path | None:
  for root in _roots(data_dir):
    for folder in (name, *_SOURCES[name].folders):
      if found := _data_file(root / folder, name):
        return found
  return None


def locate(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path | None:
  """The folder that holds dataset `name`, for the files beside it (`forget/…`); None where it is nowhere yet.

  Raises:
    ValueError: `name` is not a dataset of files; the message lists those that are.
  """
  check_choice("name", name, _SOURCES)
  found = _find(name, data_dir)
  return None if found is None else found.parent


def _download(name: str) -> None:
  folder = cache_dir() / name
  for file in _SOURCES[name].files:
    target = folder / file.name
    if not target.is_file():
      download_file(file.url, target, sha256=file.sha256, md5=file.md5)
    if file.member is not None:
      extract_zip(target, folder, [file.member])


def _read_table(path: Path) -> RatingTable:
  return read_inter(path) if path.suffix == ".inter" else read_movielens(path)


def _from_table(
  path: Path,
  name: str,
  *,
  seed: int = 0,
  ratios: tuple[float, float, float] = (0.8, 0.1, 0.1),
  by: Literal["user", "pair"] = "user",
  min_rating: float | None = None,
  k_core: int = 0,
) -> Dataset:
  indexed = index_ratings(_read_table(path), min_rating=min_rating, k_core=k_core)
  split = random_split(np.random.default_rng(seed), indexed.interactions, ratios, by)
  return Dataset.from_split(
    split,
    users=indexed.users,
    items=indexed.items,
    name=_SOURCES[name].rated_name or name,
    notes=f"{path.name}, min_rating={min_rating}, k_core={k_core}, random split {ratios} by {by}, seed={seed}",
    duplicates=indexed.duplicates,
    timestamp=indexed.timestamp,
  )


def _whose_split(folder: Path, name: str) -> str:
  """Whose split the files are, by their sums: a folder of the right name may hold anybody's."""
  if (split := _SOURCES[name].split) is not None:
    whose, *expected = split
    found = [file_digest(folder / part) for part in ("train.txt", "test.txt") if (folder / part).is_file()]
    if found == expected and not any((folder / part).is_file() for part in ("valid.txt", "validation.txt")):
      return whose
  return f"a split found in {folder}, not the published one"


_TABLE_OPTIONS = ("seed", "ratios", "by", "min_rating", "k_core")


def load(name: str, data_dir: str | os.PathLike[str] | None = None, download: bool = True, **options: Any) -> Dataset:
  """Loads a dataset by name.

  Looked for in `data_dir` (or `$JAXUNLEARN_DATA`), then in the cache (`$JAXUNLEARN_CACHE`, or
  `~/.cache/jaxunlearn`), each as `<folder>/<name>/…`; then downloaded to the cache and checked. A folder with
  `train.txt` and `test.txt` is taken as a given split. A rating file (`ml-100k`, `ml-10m`, and `ml-1m` as
  downloaded) is thresholded and split at random by seed. `ml-1m` therefore has two forms: LightUL's split, where
  its folder is given, and GroupLens's ratings of 4 and 5; `Dataset.name` (`ml-1m`, `ml-1m-grouplens`) and
  `Dataset.notes` tell which.

  Args:
    name: one of `NAMES`, or of a folder of one's own in `data_dir` (or a path) with `train.txt` and `test.txt`.
    data_dir: folder that holds one folder a dataset.
    download: whether to download what is nowhere on this machine.
    **options: for a rating file: `seed` (0), `ratios` ((0.8, 0.1, 0.1)), `by` ("user" or "pair"), `min_rating`
      (None, which keeps all; 4 for ml-1m), `k_core` (0). For "synthetic": the fields of `SyntheticConfig`. None
      for a given split.

  Raises:
    ValueError: the name is unknown, an option does not apply, a file is malformed, or a download has the wrong sum.
    OSError: the files are nowhere and cannot be downloaded; the message says where to put them.
  """
  if name not in NAMES:
    return _own_split(name, data_dir, options)
  if name == "synthetic":
    _check_options(name, options, tuple(field.name for field in dataclasses.fields(SyntheticConfig)))
    return generate(SyntheticConfig(**options)).dataset
  path = _find(name, data_dir)
  if path is None:
    _obtain(name, data_dir, download)
    path = _find(name, data_dir)
    if path is None:
      raise OSError(f"Downloaded {name} to {cache_dir() / name}, but it holds no data file; delete the folder, retry.")
  if path.name == "train.txt":
    _check_options(name, options, ())
    return dataclasses.replace(read_folder(path.parent, name=name), notes=_whose_split(path.parent, name))
  _check_options(name, options, _TABLE_OPTIONS)
  return _from_table(path, name, **({"min_rating": _SOURCES[name].min_rating} | options))


def _own_split(name: str, data_dir: str | os.PathLike[str] | None, options: dict[str, Any]) -> Dataset:
  places = [root / name for root in _roots(data_dir)]
  for folder in places:
    if (folder / "train.txt").is_file():
      _check_options(name, options, ())
      return dataclasses.replace(read_folder(folder), notes=f"a split found in {folder}")
  near = difflib.get_close_matches(name, NAMES, n=1)
  raise ValueError(
    f"Expected name={name!r} to be one of {', '.join(NAMES)}, or a folder with train.txt and test.txt, which is not at "
    f"{' or '.join(map(str, places))}.{f' Did you mean {near[0]!r}?' if near else ''}"
  )


def _obtain(name: str, data_dir: str | os.PathLike[str] | None, download: bool) -> None:
  places = " or ".join(str(root / name) for root in _roots(data_dir))
  wanted = " and ".join((file.member or file.name).rpartition("/")[2] for file in reversed(_SOURCES[name].files))
  if not download:
    raise FileNotFoundError(
      f"Found no {name}. Put {wanted}, or train.txt and test.txt, in {places}, or pass download=True (--download)."
    )
  try:
    _download(name)
  except OSError as error:
    raise OSError(f"Found no {name} on this machine. Put {wanted} in {places}. {error}") from error


def _check_options(name: str, options: dict[str, Any], known: tuple[str, ...]) -> None:
  for option in options:
    if not known:
      raise ValueError(f"{name} is a given split here and takes no options, got {option!r}; see random_split.")
    check_choice("option", option, known)
