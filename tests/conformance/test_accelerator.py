"""The branches for accelerators, on a CPU: the same numbers, and programs that GPU and TPU have all operations of."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests import accelerated
from tests.scripts import ROOT

# Those that look at the platform: products with the graph, sums over examples, shards at once instead of in turn.
BRANCHING = [
  "retrain_lightgcn", "ifru_lightgcn", "l2unrank_lightgcn", "rownewton_lightgcn", "lightul_lightgcn",
  "sisa_wmf", "sisa_neumf", "grapheraser_bprmf", "receraser_lightgcn", "laser_bprmf",
]  # fmt: skip
# Training, whose precision is the caller's `jax_default_matmul_precision`; all else is to be exact to float32.
ROUNDED = {
  "jaxunlearn.epoch.train_epoch", "jaxunlearn.shards._train_stacked", "jaxunlearn.unlearn._whitening.run_epochs",
  "jaxunlearn.unlearn.gradient_ascent.ascend",
}  # fmt: skip
# The eigenvectors and the Cholesky factor of rownewton on LightGCN, which jaxlib has for both.
KERNELS = {"Eigh", "cusolver_syevd_ffi", "cusolver_potrf_ffi"}


@pytest.fixture(scope="module")
def there(tmp_path_factory):
  """(report, arrays) of a process that takes itself for one with an accelerator."""
  path = tmp_path_factory.mktemp("accelerated") / "arrays.npz"
  command = [sys.executable, "-m", "tests.accelerated", str(path)]
  done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600, check=False)
  assert done.returncode == 0, done.stderr
  with np.load(path) as arrays:
    return json.loads(done.stdout), dict(arrays)


def test_all_programs_lower_for_gpu_and_tpu(there):
  report, _ = there
  assert report["failures"] == {}
  assert report["programs"] > 80  # they are called, not only defined
  assert set(report["kernels"]) <= KERNELS


def test_only_training_takes_the_accelerators_precision(there):
  """TF32 keeps 10 of 23 bits: too few for ranks, for conjugate gradient, for the inverse of a block."""
  assert set(there[0]["rounded"]) == ROUNDED


@pytest.mark.parametrize("name", BRANCHING)
def test_methods_serve_the_same_there(there, name):
  for array, here in accelerated.of_methods([name]).items():
    np.testing.assert_allclose(there[1][array], here, rtol=1e-4, atol=2e-5, err_msg=array)


def test_rows_of_a_propagation_are_the_same_there(there):
  for array, here in accelerated.of_graph().items():
    np.testing.assert_allclose(there[1][array], here, rtol=1e-5, atol=1e-6, err_msg=array)


def test_metrics_are_the_same_there(there):
  for array, here in accelerated.of_metrics().items():
    np.testing.assert_allclose(there[1][array], here, rtol=1e-6, err_msg=array)
