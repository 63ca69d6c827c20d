"""The papers' tables and figures: what is run for each of them, and where its results are kept."""

from __future__ import annotations

from experiments import _tables_receraser
from experiments._reproductions import Part, Table
from experiments._tables_receraser import LARGE_BATCHES, SPARSE

_POST_HOC = "original,retrain,finetune,gradient-ascent,ifru,l2unrank,rownewton,lightul-wm,lightul"
_OWN = "sisa,sisa[unit=user],receraser-ubp,laser"


def _lightul(kind: str) -> dict[str, Part]:
  """LightUL's comparison on one kind of forget set: ml-1m, for pairs also gowalla and yelp2018."""
  pairs = kind == "intr"
  parts = {
    f"ml-1m-{model}": Part(
      flags=(
        "--dataset=ml-1m",
        f"--models={model}",
        f"--epochs={epochs}",
        f"--methods={_POST_HOC}",
        f"--forget=$D/ml-1m/forget/{kind}_0.01.txt",
      ),
      seeds=seeds,
    )  # fmt: skip
    for model, epochs, seeds in (("bprmf", 120, 5), ("wmf", 70, 5), ("lightgcn", 150, 3 if pairs else 2))
  }
  parts["ml-1m-neumf"] = Part(
    flags=("--dataset=ml-1m", "--models=neumf", "--epochs=20",
           "--methods=original,retrain,finetune,gradient-ascent,ifru,l2unrank,rownewton",
           f"--forget=$D/ml-1m/forget/{kind}_0.01.txt"),
    seeds=2,
  )  # fmt: skip
  if pairs:
    parts["ml-1m-bprmf-shards"] = Part(
      flags=("--dataset=ml-1m", "--models=bprmf", "--epochs=120", f"--methods=original,retrain,{_OWN}",
             "--forget=$D/ml-1m/forget/intr_0.01.txt"),
      seeds=2,
    )  # fmt: skip
    parts["ml-1m-lightgcn-shards"] = Part(
      flags=("--dataset=ml-1m", "--models=lightgcn", "--epochs=150", f"--methods=original,retrain,{_OWN}",
             "--forget=$D/ml-1m/forget/intr_0.01.txt"),
      seeds=2,
    )  # fmt: skip
    for dataset, seeds in (("gowalla", 2), ("yelp2018", 2)):
      parts[f"{dataset}-lightgcn"] = Part(  # a budget of epochs, not a fit: LightGCN's own takes 1,000
        flags=(f"--dataset={dataset}", "--models=lightgcn", "--epochs=48", "--lightgcn.l2=1e-4",
               "--methods=original,retrain,rownewton,l2unrank,ifru,gradient-ascent,finetune,lightul-wm,lightul",
               f"--forget=$D/{dataset}/forget/intr_0.01.txt"),
        seeds=seeds,
      )  # fmt: skip
    # Shards train models of their own: parts that stand alone.
    for dataset, name, methods, seeds, more in (
      ("gowalla", "receraser", "receraser-ubp", 2, ()),
      ("gowalla", "laser", "laser", 2, LARGE_BATCHES),
      ("yelp2018", "receraser", "receraser-ubp", 2, LARGE_BATCHES),
      ("yelp2018", "laser", "laser", 2, LARGE_BATCHES),
    ):
      parts[f"{dataset}-lightgcn-{name}"] = Part(
        flags=(f"--dataset={dataset}", "--models=lightgcn", "--epochs=48", "--lightgcn.l2=1e-4", *more,
               f"--methods={methods}", f"--forget=$D/{dataset}/forget/intr_0.01.txt"),
        seeds=seeds,
      )  # fmt: skip
    for dataset, seeds in (("gowalla", 2), ("yelp2018", 2)):
      parts[f"{dataset}-bprmf"] = Part(
        flags=(f"--dataset={dataset}", "--models=bprmf", *SPARSE, f"--methods={_POST_HOC},{_OWN}",
               f"--forget=$D/{dataset}/forget/intr_0.01.txt"),
        seeds=seeds,
      )  # fmt: skip
  return parts


_PHANTOMS = ",".join(f"lightul[phantom_ratio={ratio}]" for ratio in (0.1, 0.2, 0.4, 0.6, 0.8))
_ADAM = ",".join(f"ifru[solver=adam+adam_iterations={count}]" for count in (1, 2, 5, 10, 20))
_FEW_ADAM = "".join(f"ifru[solver=adam+adam_iterations={count}]," for count in (1, 5, 20))
_SHARED_NOISE = "receraser[partition=ubp+num_shards=3+aggregate.mask_absent=False]"
_NO_MAPS = "receraser[partition=ubp+num_shards=3+aggregate.mask_absent=False+aggregate.transfer=False]"
_OWN_GRAPH = "laser[num_groups=3+graph=own]"
CLOSE = "num_negatives=8+row_negatives=100000+pool=64+item_draws=256"  # draws that many rounds can stand
_HOPS = "l2unrank[hops=0],l2unrank[hops=1],l2unrank[hops=2]"


def _l2unrank(ratio: float) -> Table:
  """L2UnRank's hops at one ratio of random pairs."""
  return Table(
    title=f"L2UnRank: {100 * ratio:g} % of the interactions of ml-1m forgotten, scopes of 0, 1 and 2 hops",
    metrics=("utility.ndcg@20", "completeness.auc", "completeness.outside@20", "completeness.outside@50",
             "completeness.rank_shift", "efficiency.unlearn_seconds"),
    parts={
      model: Part(
        flags=("--dataset=ml-1m", f"--models={model}", f"--epochs={epochs}", f"--ratio={ratio}",
               f"--methods=original,retrain,{more}{_HOPS},rownewton"),
        seeds=seeds,
      )
      for model, epochs, seeds, more in (
        ("wmf", 70, 2, "ifru,"), ("neumf", 20, 2, ""), ("lightgcn", 60, 2, "ifru,"),
      )
    },
    kept=(f"l2unrank/{ratio}",),
  )  # fmt: skip


# LightUL's recipe in batches of 4,096 instead of 512, and in larger ones where LightGCN propagates over a large graph,
# Adam adjusted: an eighth, a 64th or a 256th of the passes over tables and graph, the same course (BUILD_NOTES,
# "LightUL"). Epochs: those of its authors' logs, near enough.
_LIGHTUL = {
  size: ("--recipe=lightul", f"--train.batch_size={size}", "--train.reference_batch_size=512")
  for size in (4096, 32768, 131072)
}
# LightUL's ports of LASER and RecEraser: size of batches, epochs; epochs of each cluster, by its authors' logs.
_PORTS = {
  ("ml-1m", "bprmf", 4096, 300): {"laser": "518,300,12", "receraser": "518,530,540"},
  ("ml-1m", "lightgcn", 4096, 50): {"laser": "95,218,62", "receraser": "76,84,94"},
  ("gowalla", "bprmf", 4096, 400): {"laser": "420,67,16", "receraser": "420,51,51"},
  ("gowalla", "lightgcn", 32768, 131): {"laser": "282,62,138", "receraser": "298,257,231"},
  ("yelp2018", "bprmf", 4096, 400): {"laser": "414,56,9", "receraser": "414,51,51"},
  ("yelp2018", "lightgcn", 131072, 150): {"laser": "269,103,52", "receraser": "256,298,317"},
}
_FORGOTTEN = ("utility.ndcg@20", "completeness.auc", "completeness.outside@50", "completeness.rank_shift")
_PRINTED = ("utility.ndcg@20", "utility.ndcg@50", "completeness.auc", "efficiency.unlearn_seconds")
TABLES: dict[str, Table] = {
  **_tables_receraser.TABLES,
  "lightul-interactions": Table(
    title="LightUL, tables 2, 3 and 4: 1 % of the interactions forgotten", metrics=_PRINTED, parts=_lightul("intr"),
    kept=("influence/b554f0c3", "influence/ce1caaf5", "influence/a1b240ba"), paper="lightul",
  ),
  "lightul-users": Table(
    title="LightUL: 1 % of the users forgotten", metrics=_FORGOTTEN, parts=_lightul("user"),
    kept=("influence/a7a95012",),
  ),
  "lightul-items": Table(
    title="LightUL: 1 % of the items forgotten", metrics=_FORGOTTEN, parts=_lightul("item"),
    kept=("influence/047b6dee",),
  ),
  "lightul-phantoms": Table(
    title="LightUL, figure 3: phantom users, as a share of the users",
    metrics=(*_PRINTED, "utility.ndcg@20_unwhitened"),
    parts={
      "ml-1m-bprmf": Part(
        flags=("--dataset=ml-1m", "--models=bprmf", "--epochs=120", "--forget=$D/ml-1m/forget/intr_0.01.txt",
               f"--methods=original,retrain,lightul-wm,{_PHANTOMS}"),
        seeds=3,
      ),
    },
    kept=("phantoms/b554f0c3", "influence/b554f0c3/ml-1m/bprmf/original", "influence/b554f0c3/ml-1m/bprmf/retrain",
          "influence/b554f0c3/ml-1m/bprmf/lightul-wm[preserve]"),
  ),
  "lightul-as-published": Table(
    title="LightUL with its own training recipe; utility as served, and as published: of the vectors before whitening",
    metrics=("utility.ndcg@20", "utility.ndcg@20_unwhitened", "completeness.auc", "efficiency.unlearn_seconds"),
    parts={
      "ml-1m-bprmf": Part(
        flags=("--dataset=ml-1m", "--models=bprmf", "--recipe=lightul", "--epochs=300",
               f"--methods=original,retrain,ifru,{_ADAM},l2unrank,lightul-wm,lightul",
               "--objectives=preserve,paper,released", "--forget=$D/ml-1m/forget/intr_0.01.txt"),
        seeds=2,
      ),
      # Three clusters of users, trained as the whole is; with and without the rows of users whom a shard never saw.
      "ml-1m-bprmf-shards": Part(
        flags=("--dataset=ml-1m", "--models=bprmf", "--recipe=lightul", "--epochs=300", "--shard_recipe=lightul",
               "--shard_epochs=60",
               f"--methods=original,retrain,{_SHARED_NOISE},receraser[partition=ubp+num_shards=3],laser[num_groups=3]",
               "--forget=$D/ml-1m/forget/intr_0.01.txt"),
        seeds=2,
      ),
      "ml-1m-lightgcn": Part(
        flags=("--dataset=ml-1m", "--models=lightgcn", *_LIGHTUL[4096], "--epochs=50",
               "--methods=original,retrain,ifru,lightul-wm,lightul", "--objectives=preserve,paper,released",
               "--forget=$D/ml-1m/forget/intr_0.01.txt"),
        seeds=2,
      ),
      "ml-1m-lightgcn-shards": Part(
        flags=("--dataset=ml-1m", "--models=lightgcn", *_LIGHTUL[4096], "--epochs=50", "--shard_recipe=lightul",
               "--shard_epochs=60", "--shards.train.batch_size=4096", "--shards.train.reference_batch_size=512",
               f"--methods=original,retrain,{_SHARED_NOISE},receraser[partition=ubp+num_shards=3],laser[num_groups=3],"
               f"{_NO_MAPS},{_OWN_GRAPH}",
               "--forget=$D/ml-1m/forget/intr_0.01.txt"),
        seeds=2,
      ),
      **{
        f"{dataset}-bprmf": Part(
          flags=(f"--dataset={dataset}", "--models=bprmf", *_LIGHTUL[4096], "--epochs=400",
                 f"--methods=original,retrain,ifru,{more}lightul-wm,lightul", "--objectives=preserve,released",
                 f"--forget=$D/{dataset}/forget/intr_0.01.txt"),
          seeds=seeds,
        )
        for dataset, more, seeds in (("gowalla", _FEW_ADAM, 2), ("yelp2018", "", 2))
      },
      **{
        f"{dataset}-lightgcn": Part(
          flags=(f"--dataset={dataset}", "--models=lightgcn", *_LIGHTUL[size], f"--epochs={epochs}",
                 "--methods=original,retrain,ifru,lightul-wm,lightul", "--objectives=preserve,released",
                 f"--forget=$D/{dataset}/forget/intr_0.01.txt"),
          seeds=seeds,
        )
        for dataset, size, epochs, seeds in (("gowalla", 32768, 131, 3), ("yelp2018", 131072, 150, 2))
      },
      **{
        f"{dataset}-{model}-{method}": Part(
          script="ports",
          flags=(f"--dataset={dataset}", f"--model={model}", f"--method={method}", *_LIGHTUL[size][1:],
                 f"--epochs={epochs}", f"--group_epochs={counts}", f"--forget=$D/{dataset}/forget/intr_0.01.txt"),
          seeds=2,
        )
        for (dataset, model, size, epochs), methods in _PORTS.items() for method, counts in methods.items()
      },
    },
    kept=("as-published/b554f0c3", "as-published/ce1caaf5", "as-published/a1b240ba"), paper="lightul",
    alias={_SHARED_NOISE: "receraser", "laser[num_groups=3]": "laser"},
  ),
  "rounds": Table(
    title="No paper's: rownewton with more rounds, over the rows of the request and over all",
    metrics=("utility.ndcg@20", "completeness.auc", "completeness.outside@50", "completeness.rank_shift"),
    parts={
      "bprmf": Part(
        flags=("--dataset=ml-1m", "--models=bprmf", "--epochs=120", "--forget=$D/ml-1m/forget/intr_0.01.txt",
               "--methods=original,retrain,rownewton," + ",".join(f"rownewton[{text}]" for text in (
                 f"num_rounds=3+{CLOSE}", f"num_rounds=3+scope=all+{CLOSE}",
                 f"num_rounds=4+scope=all+{CLOSE}"))),
        seeds=5,
      ),
      "wmf": Part(
        flags=("--dataset=ml-1m", "--models=wmf", "--epochs=70", "--forget=$D/ml-1m/forget/intr_0.01.txt",
               "--methods=original,retrain,rownewton," + ",".join(
                 f"rownewton[num_rounds={rounds}+scope=all]" for rounds in (2, 3, 6))),
        seeds=5,
      ),
      "lightgcn": Part(
        flags=("--dataset=ml-1m", "--models=lightgcn", "--epochs=150",
               "--forget=$D/ml-1m/forget/intr_0.01.txt",
               "--methods=original,retrain,rownewton,rownewton[num_rounds=4+scope=all],"
               f"rownewton[num_rounds=6+scope=all],rownewton[num_rounds=10+scope=all+{CLOSE}],"
               f"rownewton[num_rounds=14+scope=all+{CLOSE}]"),
        seeds=3,
      ),
    },
    kept=("rounds/b554f0c3", *(f"influence/b554f0c3/ml-1m/{model}/{method}" for model in ("bprmf", "wmf", "lightgcn")
                               for method in ("original", "retrain", "rownewton"))),
  ),
  "originals": Table(
    title="LightGCN after a budget of epochs, against 1,000 epochs of the published setting",
    metrics=("utility.recall@20", "utility.ndcg@20", "efficiency.fit_seconds"),
    parts={
      "gowalla": Part(
        flags=("--dataset=gowalla", "--models=lightgcn", "--epochs=48", "--pairs=1", "--lightgcn.l2=1e-4",
               "--methods=original"),
        seeds=2,
      ),
      "yelp2018": Part(
        flags=("--dataset=yelp2018", "--models=lightgcn", "--epochs=48", "--lightgcn.l2=1e-4", "--methods=original",
               "--forget=$D/yelp2018/forget/intr_0.01.txt"),
        seeds=2,
      ),
    },
    kept=("originals", "influence/a1b240ba/yelp2018/lightgcn/original"), paper="lightgcn",
  ),
  "originals-long": Table(
    title="LightGCN after 300 epochs of three times the published step, in batches that are 64 times as large",
    metrics=("utility.recall@20", "utility.ndcg@20", "efficiency.fit_seconds"),
    parts={
      dataset: Part(
        flags=(f"--dataset={dataset}", "--models=lightgcn", "--epochs=300", "--lightgcn.l2=1e-4",
               "--train.batch_size=131072", "--train.reference_batch_size=2048", "--train.learning_rate=3e-3",
               "--methods=original", request),
        seeds=2,
      )
      for dataset, request in (("gowalla", "--pairs=1"), ("yelp2018", "--forget=$D/yelp2018/forget/intr_0.01.txt"))
    },
    kept=("originals-long",), paper="lightgcn",
  ),
  **{f"l2unrank-{100 * ratio:g}": _l2unrank(ratio) for ratio in (0.01, 0.025, 0.05, 0.1)},
  "synthetic": Table(
    title="No paper's: synthetic data, to see in a minute that all of this works", metrics=_FORGOTTEN[:2],
    parts={
      "bprmf": Part(flags=("--dataset=synthetic", "--methods=original,retrain,rownewton", "--epochs=3"), seeds=2),
    },
    kept=(),
  ),
}  # fmt: skip
