"""RecEraser's tables: what is run for each of them, and where its results are kept."""

from __future__ import annotations

from experiments._reproductions import Part, Table

# Gowalla and yelp2018 with BPRMF.
SPARSE = ("--epochs=60", "--train.num_negatives=4", "--train.batch_size=8192", "--train.learning_rate=4e-3")
# As many steps as a shard of ml-1m has.
LARGE_BATCHES = ("--shards.train.batch_size=4096",)


_USERS = "sisa[unit=user]"  # a user's shard by a hash of the user
_HASHED = "receraser-ubp[partition=random-users]"


def _receraser(model: str, epochs: int, seeds: int, *more: str) -> Part:
  methods = f"original,retrain,sisa,{_USERS},grapheraser,receraser,receraser-released,receraser-ubp,{_HASHED}"
  return Part(
    flags=("--dataset=ml-1m-receraser", f"--models={model}", f"--epochs={epochs}", "--pairs=1", f"--methods={methods}",
           *more),
    seeds=seeds,
  )  # fmt: skip


_SHARED = "sisa[shared_positives=True]"
_LABELS = "grapheraser[partition=blpa]"
_LAST = "aggregate.propagate_last=True"
_RELEASED = {
  "bprmf": (
    _SHARED,
    *(f"{name}[shared_positives=True]" for name in ("receraser", "receraser-released")),
    _LABELS,
  ),
  "lightgcn": (_SHARED, f"receraser[{_LAST}]", f"receraser-released[{_LAST}]", _LABELS),
}
_FEW_LAST = f"receraser-released[{_LAST}+aggregate.train.num_epochs=10]"
_RELEASED_L2 = "receraser-released[shared_positives=True+aggregate.row_l2=0.004+aggregate.train.num_epochs=40]"
_FEW_L2 = "receraser-released[shared_positives=True+aggregate.row_l2=0.004+aggregate.train.num_epochs=10]"
_BY_USERS = "receraser[partition=ubp-pairs]"
# Rows that a shard has no pair of have a say in its scores, as in the code.
_ABSENT = (
  "grapheraser[partition=blpa+aggregate.mask_absent=False]",
  "receraser[partition=random-users+aggregate.kind=mean+aggregate.mask_absent=False]",
)
# Shards' L2 as in RecEraser's README, which its code leaves out for WMF; LightGCN on ml-1m: a tenth of the README's.
_L2 = {
  model: ("--dataset=ml-1m-receraser", f"--models={model}", f"--epochs={epochs}", "--pairs=1", *more)
  for model, epochs, more in (
    ("bprmf", 90, ("--shards.bprmf.l2=0.01",)),
    (
      "wmf",
      130,
      ("--shards.wmf.unobserved_weight=0.2", "--shards.wmf.l2=0.0", "--grapheraser.aggregate.train.num_epochs=2"),
    ),
    ("lightgcn", 60, ("--shards.lightgcn.l2=0.0001",)),
  )
}
_YELP = {
  "bprmf": ("--dataset=yelp2018", "--models=bprmf", *SPARSE, "--pairs=1"),
  # The paper's weight of unobserved entries for this data; batches that make as many steps as on ml-1m-receraser.
  "wmf": ("--dataset=yelp2018", "--models=wmf", "--epochs=32", "--train.learning_rate=1e-2",
          "--wmf.unobserved_weight=0.05", "--wmf.l2=0.05", "--pairs=1", "--shards.train.batch_size=1024",
          "--shards.wmf.unobserved_weight=0.05"),
  # A budget of epochs, as in LightUL's tables.
  "lightgcn": ("--dataset=yelp2018", "--models=lightgcn", "--epochs=48", "--lightgcn.l2=1e-4", "--pairs=1",
               *LARGE_BATCHES),
}  # fmt: skip
_YELP_L2 = {
  "bprmf": (*_YELP["bprmf"], "--shards.bprmf.l2=0.01"),
  "wmf": (*_YELP["wmf"], "--shards.wmf.l2=0.0", "--grapheraser.aggregate.train.batch_size=1024",
          "--grapheraser.aggregate.train.num_epochs=2"),
  "lightgcn": (*_YELP["lightgcn"], "--shards.lightgcn.l2=0.0001"),  # the README's for this data
}  # fmt: skip

TABLES: dict[str, Table] = {
  "receraser-3": Table(
    title="RecEraser, tables 3 and 4: K = 10 shards after a request of one pair",
    metrics=("utility.recall@20", "utility.ndcg@20", "efficiency.unlearn_seconds"),
    parts={
      "bprmf": _receraser("bprmf", 90, 5),
      # Ten weights over Gram matrices of 640 columns: twenty epochs take longer than all else and move nothing.
      "wmf": _receraser("wmf", 130, 5, "--grapheraser.aggregate.train.num_epochs=2"),
      "lightgcn": _receraser("lightgcn", 60, 2),
      "yelp2018-bprmf": Part(
        flags=(*_YELP["bprmf"],
               "--methods=original,retrain,sisa,grapheraser,receraser,receraser-ubp"),
        seeds=2,
      ),
      "yelp2018-wmf": Part(
        flags=(*_YELP["wmf"],
               *(f"--{name}.aggregate.train.batch_size=1024" for name in ("grapheraser", "receraser", "receraser-ubp")),
               "--grapheraser.aggregate.train.num_epochs=2",
               "--methods=original,retrain,sisa,grapheraser,receraser,receraser-ubp"),
        seeds=2,
      ),
      "yelp2018-lightgcn": Part(
        flags=(*_YELP["lightgcn"], "--receraser.aggregate.train.num_epochs=10",
               "--methods=original,retrain,sisa,grapheraser,receraser,receraser-ubp"),
        seeds=2,
      ),
    },
    kept=("shards",),
    paper="receraser",
  ),
  "receraser-3-released": Table(
    title="RecEraser, table 3, as released: negatives that avoid other shards' pairs (nothing is exact then), LightGCN "
    "propagated over all pairs at last; GraphEraser by label propagation",
    metrics=("utility.recall@20", "utility.ndcg@20", "efficiency.unlearn_seconds"),
    parts={
      **{
        model: Part(
          flags=("--dataset=ml-1m-receraser", f"--models={model}", f"--epochs={epochs}", "--pairs=1",
                 f"--methods={','.join(_RELEASED[model])}"),
          seeds=2,
        )
        for model, epochs in (("bprmf", 90), ("lightgcn", 60))
      },
      "yelp2018-lightgcn": Part(flags=(*_YELP["lightgcn"], f"--methods={_FEW_LAST}"), seeds=2),
    },
    kept=(
      "released/2ffa2933", "released/c583a12b",
      *(f"shards/c583a12b/yelp2018/lightgcn/{method}" for method in ("sisa", "grapheraser", "receraser")),
      *(f"shards/2ffa2933/ml-1m-receraser/{model}/{method}" for model in ("bprmf", "lightgcn")
        for method in ("original", "retrain", "sisa", "grapheraser", "receraser")),
    ),
    paper="receraser",
    alias={name: name.partition("[")[0] for names in (*_RELEASED.values(), (_FEW_LAST,)) for name in names},
  ),
  "receraser-3-l2": Table(
    title="RecEraser, table 3, with less L2 in shards (BPRMF 1e-2 and WMF none, as its code; LightGCN 1e-4): RecEraser "
    "as released, with hardly any L2 of aggregated vectors; GraphEraser by label propagation; whole users at random; "
    "WMF with absent rows heard, and SISA",
    metrics=("utility.recall@20", "utility.ndcg@20", "efficiency.unlearn_seconds"),
    parts={
      "bprmf-receraser": Part(
        flags=(*_L2["bprmf"], "--shards.train.user_weight_power=1.0", f"--methods={_RELEASED_L2}"), seeds=2,
      ),
      **{
        f"{model}-grapheraser": Part(flags=(*flags, f"--methods={_LABELS}{more}"), seeds=2)
        for (model, flags), more in zip(_L2.items(), (",grapheraser", ",grapheraser", ""), strict=True)
      },
      **{
        f"yelp2018-{model}-grapheraser": Part(flags=(*flags, f"--methods={_LABELS}"), seeds=2)
        for model, flags in _YELP_L2.items()
      },
      **{f"{model}-users": Part(flags=(*flags, f"--methods={_USERS}"), seeds=2) for model, flags in _L2.items()},
      **{
        f"yelp2018-{model}-users": Part(flags=(*flags, f"--methods={_USERS}"), seeds=2)
        for model, flags in _YELP_L2.items()
      },
      "wmf-absent": Part(flags=(*_L2["wmf"], f"--methods={','.join(_ABSENT)}"), seeds=2),
      "yelp2018-wmf-sisa": Part(flags=(*_YELP_L2["wmf"], "--methods=sisa"), seeds=2),
      "yelp2018-wmf-absent": Part(flags=(*_YELP_L2["wmf"], f"--methods={_ABSENT[1]}"), seeds=2),
      "yelp2018-bprmf-receraser": Part(
        flags=(*_YELP_L2["bprmf"], "--shards.train.num_epochs=50", "--shards.train.user_weight_power=1.0",
               f"--methods={_FEW_L2}"),
        seeds=2,
      ),
      "yelp2018-bprmf-receraser-ubp": Part(
        flags=(*_YELP_L2["bprmf"], "--shards.train.num_epochs=50", f"--methods={_BY_USERS}"), seeds=2,
      ),
    },
    kept=(
      "released-l2/2ffa2933", "released-l2/c583a12b",
      *(f"shards/c583a12b/yelp2018/{model}/retrain" for model in ("bprmf", "wmf")),
      *(f"shards/2ffa2933/ml-1m-receraser/{model}/{method}" for model in _L2 for method in ("original", "retrain")),
    ),
    paper="receraser", alias={name: name.partition("[")[0] for name in (_RELEASED_L2, _LABELS, _FEW_L2, _BY_USERS)}
    | dict.fromkeys((_USERS, *_ABSENT), "grapheraser"),  # whose printed rows they have
  ),
  "receraser-3-c0": Table(
    title="RecEraser, table 3, GraphEraser's WMF on yelp2018 with ml-1m's weight of unobserved entries, without L2",
    metrics=("utility.recall@20", "utility.ndcg@20", "efficiency.unlearn_seconds"),
    parts={
      "yelp2018-wmf": Part(
        flags=(*_YELP_L2["wmf"], "--shards.wmf.unobserved_weight=0.2", f"--methods={','.join(_ABSENT)}"), seeds=2,
      ),
    },
    kept=("released-c0/c583a12b", "shards/c583a12b/yelp2018/wmf/retrain"),
    paper="receraser", alias=dict.fromkeys(_ABSENT, "grapheraser"),
  ),
  "receraser-3-longer": Table(
    title="RecEraser, table 3, SISA with three times the epochs a shard; WMF, GraphEraser too, without L2, as its code",
    metrics=("utility.recall@20", "utility.ndcg@20", "efficiency.unlearn_seconds"),
    parts={
      "bprmf": Part(
        flags=("--dataset=ml-1m-receraser", "--models=bprmf", "--epochs=90", "--pairs=1",
               "--shards.train.num_epochs=150", f"--methods=sisa,{_SHARED}"),
        seeds=2,
      ),
      "wmf": Part(flags=(*_L2["wmf"], "--shards.train.num_epochs=150", f"--methods={_LABELS},sisa,{_USERS}"), seeds=2),
      "yelp2018-wmf": Part(
        flags=(*_YELP_L2["wmf"], "--shards.train.num_epochs=150", f"--methods={_LABELS},{_USERS}"), seeds=2,
      ),
    },
    kept=(
      "longer/2ffa2933", "longer/c583a12b", "shards/c583a12b/yelp2018/wmf/retrain",
      *(f"shards/2ffa2933/ml-1m-receraser/{model}/{method}" for model in ("bprmf", "wmf")
        for method in ("original", "retrain")),
    ),
    paper="receraser", alias={_SHARED: "sisa", _LABELS: "grapheraser", _USERS: "grapheraser"},
  ),
}  # fmt: skip
