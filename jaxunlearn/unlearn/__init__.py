"""Unlearning methods, a module each: a pure function or a state, and a factory of an `Unlearner` named like it."""

from jaxunlearn.unlearn import (
  finetune,
  gradient_ascent,
  grapheraser,
  ifru,
  l2unrank,
  laser,
  lightul,
  receraser,
  retrain,
  rownewton,
  sisa,
)

__all__ = [
  "finetune",
  "gradient_ascent",
  "grapheraser",
  "ifru",
  "l2unrank",
  "laser",
  "lightul",
  "receraser",
  "retrain",
  "rownewton",
  "sisa",
]
