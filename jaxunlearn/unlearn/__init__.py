"""Unlearning methods, a module each: a pure function, and a factory of a `base.Unlearner` named like the module."""

from jaxunlearn.unlearn import lightul, retrain

__all__ = ["lightul", "retrain"]
