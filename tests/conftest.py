"""Strict JAX for every test, and the folder of real data where there is one."""

import os
from pathlib import Path

# Programs here run for milliseconds and compile for seconds: without LLVM's optimisations a test takes a quarter less.
# `XLA_FLAGS= make test` runs them as users have them.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest

from tests import compiled

jax.config.update("jax_compilation_cache_dir", str(compiled.XLA))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small programs are most of them
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(scope="session")
def data_dir() -> Path:
  """The folder of real datasets; the test is skipped where $JAXUNLEARN_DATA does not name one."""
  folder = os.environ.get("JAXUNLEARN_DATA")
  if not folder:
    pytest.skip("needs real data: set JAXUNLEARN_DATA to a folder that holds ml-1m, gowalla, … (README, Data)")
  if not Path(folder).is_dir():
    pytest.skip(f"needs real data: JAXUNLEARN_DATA={folder} is not a folder")
  return Path(folder)
