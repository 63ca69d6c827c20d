"""Methods in tables and plots: their order and how their names are written."""

from __future__ import annotations

# The model before the request, the reference, then the methods, exact ones first.
NAMES = {
  "original": "Original",
  "retrain": "Retrain",
  "sisa": "SISA",
  "grapheraser": "GraphEraser",
  "receraser": "RecEraser",
  "receraser-released": "RecEraser (released anchors)",
  "receraser-ubp": "RecEraser (UBP, combined)",
  "laser": "LASER",
  "finetune": "Fine-tune",
  "gradient-ascent": "Gradient ascent",
  "ifru": "IFRU",
  "l2unrank": "L2UnRank",
  "lightul-wm": "LightUL-WM",
  "lightul": "LightUL",
  "rownewton": "RowNewton (ours)",
}
_DEFAULT = "preserve"  # the objective that goes without saying


def rank(method: str) -> tuple[int, bool]:
  """The place of a method in a table: "lightul[paper]" is after "lightul", what is not in `NAMES` comes last."""
  name, _, variant = method.partition("[")
  return list(NAMES).index(name) if name in NAMES else len(NAMES), variant not in ("", f"{_DEFAULT}]")


def display(method: str) -> str:
  """Writes "lightul[paper]" as "LightUL [paper]"; a name that is not in `NAMES` as it is."""
  name, _, variant = method.partition("[")
  if name not in NAMES:
    return method
  return NAMES[name] + (f" [{variant}" if variant and variant != f"{_DEFAULT}]" else "")
