"""A headless Chromium for tests, spoken to over a pipe by its DevTools protocol; needs no package."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
  "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe",
)  # fmt: skip


def find():
  """The path of a Chromium; None where there is none."""
  return next((path for path in map(shutil.which, _NAMES) if path), None)


class Browser:
  """One page. `events` holds everything the browser told of, in order."""

  def __init__(self, binary, profile, limit=60.0):
    self.limit, self.events, self._last, self._rest = limit, [], 0, b""
    to_read, self._write = os.pipe()
    self._read, to_write = os.pipe()

    def wire():  # the browser reads its file descriptor 3 and writes 4
      source, target = os.dup(to_read), os.dup(to_write)
      os.dup2(source, 3)
      os.dup2(target, 4)

    self._process = subprocess.Popen(
      [binary, *_FLAGS, f"--user-data-dir={profile}", "about:blank"], preexec_fn=wire, close_fds=False,
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_read)
    os.close(to_write)
    target = next(t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page")
    attached = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
    self._session = attached["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{domain}.enable")

  def __enter__(self):
    return self

  def __exit__(self, *_):
    try:
      self._call("Browser.close")  # it ends its own children and leaves its profile alone, which a signal does not
      self._process.wait(20)
    except (TimeoutError, OSError, subprocess.TimeoutExpired):
      self._process.kill()
      self._process.wait(20)
    os.close(self._read)
    os.close(self._write)

  def _receive(self, end):
    while b"\0" not in self._rest:
      left = end - time.monotonic()
      ready = select.select([self._read], [], [], max(left, 0))[0]
      chunk = os.read(self._read, 1 << 16) if ready else b""
      if not chunk:
        raise TimeoutError("The browser does not answer.")
      self._rest += chunk
    message, _, self._rest = self._rest.partition(b"\0")
    return json.loads(message)

  def _call(self, method, session=None, **params):
    self._last += 1
    message = {"id": self._last, "method": method, "params": params}
    if session:
      message["sessionId"] = session
    os.write(self._write, json.dumps(message).encode() + b"\0")
    end = time.monotonic() + self.limit
    while True:
      answer = self._receive(end)
      if answer.get("id") == self._last:
        if "error" in answer:
          raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]
      self.events.append(answer)

  def call(self, method, **params):
    """A command of the DevTools protocol to the page."""
    return self._call(method, self._session, **params)

  def size(self, width, height=800, *, dark=False, mobile=True):
    """Sets the screen, and whether the reader wants it dark."""
    self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    self.call("Emulation.setEmulatedMedia", features=[scheme])

  def open(self, path):
    """Loads a file and waits until it is there."""
    before = len(self.events)
    self.call("Page.navigate", url=path.resolve().as_uri())
    end = time.monotonic() + self.limit
    while not any(event.get("method") == "Page.loadEventFired" for event in self.events[before:]):
      self.events.append(self._receive(end))

  def evaluate(self, code):
    """The value of a JavaScript expression; RuntimeError with its text where it throws."""
    done = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
    if "exceptionDetails" in done:
      raise RuntimeError(json.dumps(done["exceptionDetails"]))
    return done["result"].get("value")

  def screenshot(self, path, *, top=0, height=None):
    """The page, or the part of it from `top` on, as a PNG."""
    width, whole = self.evaluate("[innerWidth, document.documentElement.scrollHeight]")
    clip = {"x": 0, "y": top, "width": width, "height": min(height or whole, whole - top), "scale": 1}
    data = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
    path.write_bytes(base64.b64decode(data))

  def errors(self):
    """Everything that went wrong: exceptions, messages of level error or warning, requests that failed."""
    found = [e for e in self.events if e.get("method") in ("Runtime.exceptionThrown", "Network.loadingFailed")]
    logs = [e["params"]["entry"] for e in self.events if e.get("method") == "Log.entryAdded"]
    calls = [e["params"] for e in self.events if e.get("method") == "Runtime.consoleAPICalled"]
    return found + [e for e in logs if e["level"] in ("error", "warning")] + [c for c in calls if c["type"] == "error"]

  def requests(self):
    """Addresses the page asked for."""
    return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
