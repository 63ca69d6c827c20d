"""Methods in tables and plots: their order and how their names are written."""

from __future__ import annotations

import re

# The model before the request, the reference, then the methods, exact ones first.
NAMES = {
  "original": "Original",
  "retrain": "Retrain",
  "sisa": "SISA",
  "grapheraser": "GraphEraser",
  "receraser": "RecEraser",
  "receraser-released": "RecEraser (released anchors)",
  "receraser-ubp": "RecEraser (UBP, combined)",
  "receraser-port": "RecEraser (port)",  # LightUL's, as LASER's
  "laser": "LASER",
  "laser-port": "LASER (port)",
  "finetune": "Fine-tune",
  "gradient-ascent": "Gradient ascent",
  "ifru": "IFRU",
  "l2unrank": "L2UnRank",
  "lightul-wm": "LightUL-WM",
  "lightul": "LightUL",
  "rownewton": "RowNewton (ours)",
}
_DEFAULT = "preserve"  # the objective that goes without saying


def rank(method: str) -> tuple[int, str]:
  """The place of a method in a table: "lightul[paper]" is after "lightul", what is not in `NAMES` comes last."""
  name, variant = _parts(method)
  by_number = re.sub(r"\d+", lambda found: found[0].zfill(9), variant)  # "hops=10" after "hops=2"
  return list(NAMES).index(name) if name in NAMES else len(NAMES), by_number


def display(method: str) -> str:
  """Writes "lightul[paper]" as "LightUL [paper]", "l2unrank[hops=2]" as "L2UnRank [hops=2]".

  A name that is not in `NAMES` stays as it is.
  """
  name, variant = _parts(method)
  if name not in NAMES:
    return method
  return NAMES[name] + (f" [{variant.replace('+', ', ')}]" if variant else "")


def _parts(method: str) -> tuple[str, str]:
  """The method, and what is in brackets without the default objective."""
  name, _, inside = method.partition("[")
  parts = inside.removesuffix("]").split("+")
  return name, "+".join(part for part in parts if part != _DEFAULT)
