"""Downloading files over HTTP with the standard library: resumed, checked, and never half there."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import tqdm

from jaxunlearn.data._files import atomic_writer

_BLOCK = 1 << 20


def file_digest(path: str | os.PathLike[str], algorithm: str = "sha256") -> str:
  """Hex digest of a file, by any algorithm of `hashlib`."""
  with open(path, "rb") as handle:
    return hashlib.file_digest(handle, algorithm).hexdigest()


def _check(part: Path, destination: Path, url: str, sha256: str | None, md5: str | None) -> None:
  """Raises ValueError, and removes `part`, unless it has the digest that is expected or was recorded before."""
  if sha256 is None and md5 is None:
    record = destination.with_name(destination.name + ".sha256")
    if not record.exists():
      with atomic_writer(record) as handle:
        handle.write(f"{file_digest(part)}  {destination.name}\n".encode())
      return
    sha256, source = (record.read_text().split() or [""])[0], f"recorded in {record} at the first download"
  else:
    source = "of the published file"
  for algorithm, expected in (("sha256", sha256), ("md5", md5)):
    found = file_digest(part, algorithm) if expected is not None else None
    if found != expected:
      part.unlink()
      raise ValueError(
        f"{url} has {algorithm} {found}, expected {expected} ({source}). The download was damaged or the publisher "
        f"changed the file; it was removed. Try again, or put the right file at {destination}."
      )


def _open(url: str, offset: int, timeout: float) -> http.client.HTTPResponse:
  headers = {"User-Agent": "jaxunlearn", "Accept-Encoding": "identity"}
  if offset:
    headers["Range"] = f"bytes={offset}-"
  return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)


def _resumes_at(response: http.client.HTTPResponse, offset: int) -> bool:
  """Whether the server really continues at `offset`; one without Range support answers 200 and starts over."""
  if response.status != 206:
    return False
  start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
  return start is not None and int(start[1]) == offset


def _fetch(url: str, part: Path, timeout: float, progress: bool) -> None:
  """Brings `part` to its full length, continuing where it ends."""
  offset = part.stat().st_size if part.exists() else 0
  try:
    response = _open(url, offset, timeout)
  except urllib.error.HTTPError as error:
    if error.code != 416 or not offset:
      raise
    error.close()
    # 416: nothing beyond what is here. Either it is complete already, or it is longer than the file: the size tells.
    if error.headers.get("Content-Range", "") == f"bytes */{offset}":
      return
    part.unlink()
    offset, response = 0, _open(url, 0, timeout)
  with response:
    if offset and not _resumes_at(response, offset):
      if response.status == 206:
        raise OSError("the server answered a different range than asked")
      offset = 0
    length = response.headers.get("Content-Length")
    total = None if length is None else offset + int(length)
    with (
      open(part, "ab" if offset else "wb") as handle,
      tqdm.tqdm(
        desc=part.name.removesuffix(".part"),
        total=total,
        initial=offset,
        unit="B",
        unit_scale=True,
        disable=not progress,
      ) as bar,
    ):
      while block := response.read(_BLOCK):
        handle.write(block)
        bar.update(len(block))
    if total is not None and part.stat().st_size != total:
      raise OSError(f"the connection ended after {part.stat().st_size} of {total} bytes; call again to resume")


def download(
  url: str,
  destination: str | os.PathLike[str],
  *,
  sha256: str | None = None,
  md5: str | None = None,
  timeout: float = 30.0,
  progress: bool | None = None,
) -> Path:
  """Downloads `url` to `destination`, which appears only when complete and checked.

  A transfer that breaks leaves `<destination>.part`, and the next call resumes it. Without a digest to compare
  with, the first download's SHA-256 is recorded in `<destination>.sha256` and later downloads must match it.

  Args:
    url: http or https address.
    destination: the file to write; its folder is made.
    sha256: expected digest (hex) of the file, where the publisher's is known.
    md5: expected MD5 (hex), for publishers that give no better.
    timeout: seconds without an answer before giving up.
    progress: whether to show a progress bar on stderr; None shows one on a terminal only.

  Returns:
    `destination`.

  Raises:
    OSError: no connection, an HTTP error, a broken transfer, or the file cannot be written; the message says where
      to put the file by hand.
    ValueError: the file does not have the expected digest; the download is removed.
  """
  destination = Path(destination)
  part = destination.with_name(destination.name + ".part")
  progress = sys.stderr.isatty() if progress is None else progress
  try:
    destination.parent.mkdir(parents=True, exist_ok=True)
    _fetch(url, part, timeout, progress)
  except (OSError, http.client.HTTPException) as error:
    reason = getattr(error, "reason", None) or error
    raise OSError(
      f"Could not download {url}: {reason}. Without a connection, fetch the file elsewhere and put it at {destination}."
    ) from error
  _check(part, destination, url, sha256, md5)
  os.replace(part, destination)
  return destination


def extract_zip(
  archive: str | os.PathLike[str], destination: str | os.PathLike[str], members: Sequence[str] | None = None
) -> list[Path]:
  """Extracts files of a zip archive under `destination`, and nowhere else.

  Args:
    archive: the zip file.
    destination: folder to extract to; made if absent.
    members: names inside the archive; all files when None.

  Returns:
    The paths written, in the order of `members`.

  Raises:
    ValueError: the file is no zip archive, is damaged, lacks a member, or a member's name is absolute or leads
      out of the folder. Nothing is written for such a name.
    OSError: a file cannot be written.
  """
  destination = Path(destination)
  try:
    with zipfile.ZipFile(archive) as stored:
      names = [info.filename for info in stored.infolist() if not info.is_dir()] if members is None else list(members)
      targets = []
      for name in names:
        pure = PurePosixPath(name.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or not pure.parts or ":" in pure.parts[0]:
          raise ValueError(f"{archive} holds {name!r}, which leads out of {destination}; do not trust this archive.")
        if name not in stored.namelist():
          raise ValueError(f"{archive} has no {name!r}; it holds {', '.join(stored.namelist()[:8])}.")
        targets.append(destination.joinpath(*pure.parts))
      for name, target in zip(names, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Links inside an archive come out as small text files, since only bytes are copied.
        with stored.open(name) as source, atomic_writer(target) as sink:
          shutil.copyfileobj(source, sink, _BLOCK)
  except zipfile.BadZipFile as error:
    raise ValueError(f"{archive} is not a readable zip archive ({error}); delete it and download it again.") from error
  return targets
