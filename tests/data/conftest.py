"""What the data tests share: where real data is, and pairs drawn by hypothesis."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Path:
  """The folder of real data; the test is skipped where JAXUNLEARN_DATA is unset."""
  folder = os.environ.get("JAXUNLEARN_DATA")
  if not folder:
    pytest.skip("JAXUNLEARN_DATA is unset: no real data on this machine")
  return Path(folder)
