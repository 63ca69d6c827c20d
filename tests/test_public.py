"""The table of contents: names that exist, a version, an import that costs little."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxunlearn

ROOT = Path(jaxunlearn.__file__).parents[1]


def test_names_exist_once_and_are_documented():
  assert len(set(jaxunlearn.__all__)) == len(jaxunlearn.__all__)
  for name in jaxunlearn.__all__:
    assert inspect.getdoc(getattr(jaxunlearn, name)), name


def test_every_imported_name_is_listed():
  tree = ast.parse(Path(jaxunlearn.__file__).read_text(encoding="utf-8"))
  imported = {
    alias.name
    for node in tree.body
    if isinstance(node, ast.ImportFrom) and node.module != "__future__"
    for alias in node.names
  }
  assert imported == set(jaxunlearn.__all__)


def test_version():
  assert re.fullmatch(r"\d+\.\d+\.\d+", jaxunlearn.__version__)
  assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # no second place


def test_importing_starts_no_device():
  # A device that was started cannot be configured any more: platform, number, memory.
  code = "import jaxunlearn, jax; jax.config.update('jax_num_cpu_devices', 2); print(jax.device_count('cpu'))"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
  assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr


@pytest.mark.slow
def test_the_readme_runs_and_says_the_truth(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # its second part reads a file of sales, and writes beside it
  names = [("ann", "bob", "cem", "dua", "eli")[n % 5] for n in range(40)]
  sales = [f"{name},sku-{(7 * n) % 11}" for n, name in enumerate(names)]
  (tmp_path / "shop.csv").write_text("\n".join(["customer,sku", "bob,sku-7", *sales]) + "\n")
  readme = (ROOT / "README.md").read_text(encoding="utf-8")
  names = {"__name__": "readme"}
  exec("\n".join(re.findall(r"```python\n(.*?)```", readme, re.DOTALL)), names)
  assert names["method"].guarantee == "exact"
  assert names["top"].by_popularity.tolist() == [True, False] and names["top"].item_ids.shape == (2, 10)
  assert not (names["state"].interactions.user == names["shop"].users.encode(["ann"])[0]).any()
  assert names["info"]["num_forgotten"] == 1 and names["meta"]["model"] == "bprmf"
