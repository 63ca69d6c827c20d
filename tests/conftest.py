"""Strict JAX for every test, and the folder of real data where there is one."""

import os
from pathlib import Path

from tests.scripts import CACHE

# Programs here run for milliseconds and compile for seconds: without LLVM's optimisations a test takes a quarter less,
# without the newer of XLA's two ways to emit a fusion half of the rest. `XLA_FLAGS= make test` runs them as users have
# them. XLA ends the process at a flag that it does not know: those of the version in constraints.txt are known.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
# Files of tests and the scripts that they start share many programs, most of them small.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import pytest

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


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
  """Lets a process' compiled programs go before they are too many: each maps some six pieces of memory, of which Linux
  grants a process 65,530. The next one then crashed it, in the second thousand of tests."""
  yield
  maps = Path("/proc/self/maps")
  if maps.exists() and len(maps.read_bytes().splitlines()) > 20_000:
    jax.clear_caches()
