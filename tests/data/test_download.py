"""The downloader against a server on this machine: whole, resumed, refused, damaged, absent."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import re
import threading
import zipfile

import pytest

from jaxunlearn.data.download import download, extract_zip, file_digest

BODY = os.urandom(3 << 20)
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
  """Serves BODY; its class attributes say how well."""

  ranges = True  # whether Range is understood
  cut_at: int | None = None  # close the connection after so many bytes
  shifted = False  # answer 206 with another range than asked
  asked: list[str | None] = []  # Range header of each request

  def do_GET(self) -> None:
    """Answers one request."""
    asked = self.headers.get("Range")
    type(self).asked.append(asked)
    if self.path != "/file":
      self.send_error(404)
      return
    start = 0
    if asked and self.ranges:
      start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
      if start >= len(BODY):
        self.send_response(416)
        self.send_header("Content-Range", f"bytes */{len(BODY)}")
        self.end_headers()
        return
      self.send_response(206)
      first = start + 1 if self.shifted else start
      self.send_header("Content-Range", f"bytes {first}-{len(BODY) - 1}/{len(BODY)}")
    else:
      self.send_response(200)
    self.send_header("Content-Length", str(len(BODY) - start))
    self.end_headers()
    with contextlib.suppress(ConnectionError):  # a client that refuses the answer hangs up
      self.wfile.write(BODY[start : self.cut_at])

  def log_message(self, *args: object) -> None:
    """Keeps the test output quiet."""


@pytest.fixture
def server():
  handler = type("FreshHandler", (Handler,), {"asked": []})
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    handler.url = f"http://127.0.0.1:{running.server_port}/file"
    yield handler
    running.shutdown()
    thread.join()


@pytest.mark.parametrize("sums", [{"sha256": SHA256}, {"md5": MD5}, {"sha256": SHA256, "md5": MD5}])
def test_whole_file(server, tmp_path, sums, capfd):
  target = tmp_path / "folder" / "file.bin"
  assert download(server.url, target, **sums) == target
  assert target.read_bytes() == BODY
  assert [p.name for p in target.parent.iterdir()] == ["file.bin"]
  assert capfd.readouterr().err == ""  # no bar where there is no terminal


def test_progress_on_request(server, tmp_path, capfd):
  download(server.url, tmp_path / "file.bin", sha256=SHA256, progress=True)
  assert "file.bin: 100%" in capfd.readouterr().err


def test_broken_transfer_is_kept_and_resumed(server, tmp_path):
  target = tmp_path / "file.bin"
  server.cut_at = 1_000_000
  with pytest.raises(OSError, match=r"1000000 of 3145728|IncompleteRead"):
    download(server.url, target, sha256=SHA256)
  assert not target.exists()
  assert (tmp_path / "file.bin.part").read_bytes() == BODY[:1_000_000]
  server.cut_at = None
  download(server.url, target, sha256=SHA256)
  assert target.read_bytes() == BODY
  assert server.asked == [None, "bytes=1000000-"]


def test_server_without_ranges_starts_over(server, tmp_path):
  server.ranges = False
  (tmp_path / "file.bin.part").write_bytes(BODY[:5000])
  assert download(server.url, tmp_path / "file.bin", sha256=SHA256).read_bytes() == BODY
  assert server.asked == ["bytes=5000-"]


def test_a_complete_part_needs_no_transfer_and_an_overlong_one_starts_over(server, tmp_path):
  (tmp_path / "file.bin.part").write_bytes(BODY)
  assert download(server.url, tmp_path / "file.bin", sha256=SHA256).read_bytes() == BODY
  (tmp_path / "again.bin.part").write_bytes(BODY + b"more")
  assert download(server.url, tmp_path / "again.bin", sha256=SHA256).read_bytes() == BODY
  assert len(server.asked) == 3


def test_another_range_than_asked_is_not_appended(server, tmp_path):
  server.shifted = True
  (tmp_path / "file.bin.part").write_bytes(BODY[:5000])
  with pytest.raises(OSError, match="different range"):
    download(server.url, tmp_path / "file.bin", sha256=SHA256)
  assert (tmp_path / "file.bin.part").read_bytes() == BODY[:5000]


@pytest.mark.parametrize("sums", [{"sha256": "0" * 64}, {"md5": "0" * 32}, {"sha256": SHA256, "md5": "0" * 32}])
def test_wrong_sum_removes_the_download(server, tmp_path, sums):
  with pytest.raises(ValueError, match="expected 000000"):
    download(server.url, tmp_path / "file.bin", **sums)
  assert list(tmp_path.iterdir()) == []


def test_a_damaged_part_does_not_survive(server, tmp_path):
  (tmp_path / "file.bin.part").write_bytes(b"x" * 5000)
  with pytest.raises(ValueError, match="was removed"):
    download(server.url, tmp_path / "file.bin", sha256=SHA256)
  assert download(server.url, tmp_path / "file.bin", sha256=SHA256).read_bytes() == BODY


def test_without_a_sum_the_first_download_is_recorded(server, tmp_path):
  target = tmp_path / "file.bin"
  download(server.url, target)
  record = tmp_path / "file.bin.sha256"
  assert record.read_text() == f"{SHA256}  file.bin\n"
  download(server.url, target)  # the same again is fine
  record.write_text("0" * 64)
  with pytest.raises(ValueError, match="recorded in .* at the first download"):
    download(server.url, target)
  assert target.read_bytes() == BODY  # what was there before stays


def test_offline_says_where_to_put_the_file(tmp_path):
  with http.server.HTTPServer(("127.0.0.1", 0), Handler) as unused:
    port = unused.server_port  # closed at the end of the block: nobody listens there
  with pytest.raises(OSError, match=r"Could not download http.*refused.*put it at .*file\.bin"):
    download(f"http://127.0.0.1:{port}/file", tmp_path / "file.bin", sha256=SHA256)


def test_http_error_is_an_os_error(server, tmp_path):
  with pytest.raises(OSError, match="Could not download .*/absent: Not Found"):
    download(server.url.replace("/file", "/absent"), tmp_path / "file.bin")


def archive(path, **members):
  with zipfile.ZipFile(path, "w") as stored:
    for name, text in members.items():
      stored.writestr(name.replace("__", "/"), text)
  return path


def test_extract_zip(tmp_path):
  path = archive(tmp_path / "a.zip", inner__one="1", inner__two="2")
  assert extract_zip(path, tmp_path / "out", ["inner/two"]) == [tmp_path / "out" / "inner" / "two"]
  assert [p.name for p in (tmp_path / "out" / "inner").iterdir()] == ["two"]
  assert len(extract_zip(path, tmp_path / "all")) == 2
  assert (tmp_path / "all" / "inner" / "one").read_text() == "1"
  with pytest.raises(ValueError, match="has no 'three'; it holds inner/one, inner/two"):
    extract_zip(path, tmp_path / "out", ["three"])


@pytest.mark.parametrize("name", ["../out.txt", "/abs.txt", "a/../../out.txt", "..\\out.txt", "C:/out.txt"])
def test_extract_zip_stays_in_its_folder(tmp_path, name):
  path = tmp_path / "evil.zip"
  with zipfile.ZipFile(path, "w") as stored:
    stored.writestr("fine.txt", "1")
    stored.writestr(name, "2")
  with pytest.raises(ValueError, match="leads out of"):
    extract_zip(path, tmp_path / "in" / "side")
  assert not (tmp_path / "in").exists()  # nothing at all was written
  assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.zip"]


def test_extract_zip_refuses_damaged_archives(tmp_path):
  (tmp_path / "x.zip").write_bytes(b"PK not really")
  with pytest.raises(ValueError, match="not a readable zip"):
    extract_zip(tmp_path / "x.zip", tmp_path)
  path = archive(tmp_path / "y.zip", one="hello hello hello")
  data = bytearray(path.read_bytes())
  data[data.index(b"hello")] ^= 1
  path.write_bytes(data)
  with pytest.raises(ValueError, match="not a readable zip"):
    extract_zip(path, tmp_path / "out")
  assert list((tmp_path / "out").iterdir()) == []  # no damaged file, no temporary one


def test_file_digest(tmp_path):
  (tmp_path / "f").write_bytes(BODY)
  assert (file_digest(tmp_path / "f"), file_digest(tmp_path / "f", "md5")) == (SHA256, MD5)
