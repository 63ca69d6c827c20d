"""Naive twins of the library's numbers: plain loops over Python lists, written from the definitions."""

import math

import numpy as np


def naive_ranking(scores, test, mask, ks):
  """{"recall@k": {user: value}, …} by sorting all items of every user with a test pair."""
  truth = {}
  for user, item in zip(test.user.tolist(), test.item.tolist(), strict=True):
    truth.setdefault(user, set()).add(item)
  masked = set() if mask is None else set(zip(mask.user.tolist(), mask.item.tolist(), strict=True))
  out = {f"{name}@{k}": {} for name in ("recall", "ndcg", "hr") for k in ks}
  for user, wanted in truth.items():
    left = [i for i in range(len(scores[user])) if (user, i) not in masked and scores[user][i] != -math.inf]
    ranked = sorted(left, key=lambda i, user=user: (-float(scores[user][i]), i))
    for k in ks:
      hits, gain, ideal = 0, 0.0, 0.0
      for place, item in enumerate(ranked[:k], start=1):
        if item in wanted:
          hits += 1
          gain += 1 / math.log2(place + 1)
      for place in range(1, min(k, len(wanted)) + 1):
        ideal += 1 / math.log2(place + 1)
      out[f"recall@{k}"][user] = hits / len(wanted)
      out[f"ndcg@{k}"][user] = gain / ideal
      out[f"hr@{k}"][user] = float(hits > 0)
  return out


def naive_auc(positive, negative):
  """Every pair of one positive and one negative: 1 for a win, one half for a tie."""
  won = 0.0
  for p in positive:
    for n in negative:
      won += 1.0 if p > n else 0.5 if p == n else 0.0
  return won / (len(positive) * len(negative))


def naive_top_k(row, k):
  """Indices of the k largest, lowest index first among equals."""
  return np.argsort(-np.asarray(row), kind="stable")[:k]
