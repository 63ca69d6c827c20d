"""One self-contained HTML page of a comparison, from result dicts alone: tables that sort, plots, and how to re-run.

The page loads nothing, from no network and no other file, and its numbers can be read without JavaScript. Equal results
give equal bytes.
"""

from __future__ import annotations

import html
import json
import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import _page_lines, _page_plots, _page_table
from experiments._names import rank
from experiments._report import Row, collect, conflict
from experiments._results import PathLike, plain

_ASSETS = Path(__file__).parent / "page"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_LEAD = (
  "Every number is a mean over seeds, with its sample standard deviation (n − 1) where there are several. NDCG "
  "and Recall are of full rankings of what is served, train items masked. AUC tells forgotten pairs from retained "
  "ones: the target is not 0.5 or 1 but the AUC of <em>Retrain</em>, the model trained again without the forgotten "
  "pairs. A method whose utility and AUC both lie within Retrain's own spread has unlearned; one whose AUC is higher "
  "than Retrain's has forgotten more than retraining does."
)


_REQUEST = ("by", "selection", "ratio", "pairs", "scenario", "category", "share")  # flags that say what is forgotten


class Section(NamedTuple):
  """One dataset, model, training recipe and forget set, and where these are not enough one length of training."""

  dataset: str
  model: str
  results: list[Mapping[str, Any]]
  forget: str  # which, where a dataset and model have several; else ""
  epochs: int | None = None  # of training, where results of one method and seed differ in it
  shards: tuple[str, ...] = ()  # what is another in the shards than in those of the same methods in the first section

  @property
  def name(self) -> str:
    """Its heading."""
    recipe = _recipe(self.results[0])
    trained = f", recipe {recipe}" if recipe not in ("", "tuned") else ""
    forgotten = f", forget set {self.forget}" if self.forget else ""
    if "partition" in (self.results[0].get("config") or {}):  # of experiments.shards
      forgotten = ", partitions and aggregations"
    epochs = f", {self.epochs} epochs" if self.epochs else ""
    return ", ".join([f"{self.model} on {self.dataset}{trained}{forgotten}{epochs}", *self.shards])


def _recipe(result: Mapping[str, Any]) -> str:
  return str((result.get("config") or {}).get("recipe") or "")


def _forget_name(results: Sequence[Mapping[str, Any]]) -> str:
  """What the commands say of the forget set: its file's name, or the flags that drew it; then its hash's start."""
  named = next((r for r in results if r.get("forget_hash")), None)
  if named is None:
    return "none"
  words = [word[2:].partition("=") for word in shlex.split(str(named.get("command") or "")) if word.startswith("--")]
  flags = {name: value for name, _, value in words if value}
  said = [Path(flags["forget"]).stem] if "forget" in flags else [f"{n} {flags[n]}" for n in _REQUEST if n in flags]
  return f"{' '.join(said)} ({str(named['forget_hash'])[:8]})" if said else str(named["forget_hash"])[:12]


def sections_of(results: Sequence[Mapping[str, Any]]) -> list[Section]:
  """A section for each dataset, model and recipe, in order of appearance; several where a seed has several forget sets.

  A result without a forget set (`experiments.fit`) belongs to the forget set of the others where there is but one. Two
  results of one method and seed that differ in their number of epochs, or in how their shards were trained, are in two
  sections.
  """
  groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
  for result in results:
    groups.setdefault((str(result["dataset"]), str(result["model"]), _recipe(result)), []).append(result)
  sections = []
  for (dataset, model, _), members in groups.items():
    sets = list(dict.fromkeys((m.get("data_hash"), m.get("forget_hash")) for m in members))
    of_seed: dict[int, set[Any]] = {}
    for member in members:
      for seed in member["seeds"]:
        of_seed.setdefault(seed, set()).add((member.get("data_hash"), member.get("forget_hash")))
    named = [pair for pair in sets if pair[1]]
    if all(len(found) == 1 for found in of_seed.values()):
      sections.append(Section(dataset, model, members, ""))
    elif len(named) == 1 and {pair[0] for pair in sets} == {named[0][0]} and _differ(members):
      sections.append(Section(dataset, model, members, ""))
    else:
      for pair in sets:
        part = [m for m in members if (m.get("data_hash"), m.get("forget_hash")) == pair]
        sections.append(Section(dataset, model, part, _forget_name(part)))
  return [part for section in sections for whole in _by_shards(section) for part in _by_epochs(whole)]


def _arranged(sections: Sequence[Section]) -> list[Section]:
  """By dataset, of most sections first; in one, comparisons with Retrain, tuned recipes and many rows come first."""
  number = Counter(section.dataset for section in sections)

  def place(section: Section) -> tuple[int, str, bool, bool, bool, int]:
    recipe, ablation = _recipe(section.results[0]), "partition" in (section.results[0].get("config") or {})
    compared = any(result["method"] == "retrain" for result in section.results)
    tuned = recipe in ("", "tuned")
    return -number[section.dataset], section.dataset, ablation, not compared, not tuned, -len(section.results)

  return sorted(sections, key=place)


def _links(group: str, links: Sequence[tuple[str, str]], *, alone: bool) -> str:
  """A dataset's sections, or the curves: a heading and links, whose names leave out what the heading says."""
  heading = "" if alone else f"<p>{html.escape(group)}</p>"
  names = [(anchor, name if alone else name.replace(f" on {group}", "", 1)) for anchor, name in links]
  listed = "".join(f'<li><a href="#{anchor}">{html.escape(name)}</a></li>' for anchor, name in names)
  return f"{heading}<ul>{listed}</ul>"


def _epochs(result: Mapping[str, Any]) -> int:
  """Of training; 0 where the configuration says nothing."""
  return int(((result.get("config") or {}).get("train") or {}).get("num_epochs") or 0)


def _shard_settings(result: Mapping[str, Any]) -> dict[str, Any]:
  """Of the model and the training of its shards, those that are not None; none where it has no shards."""
  config = result.get("config") or {}
  parts = [config.get(name) or {} for name in ("shard_train", "shard_model")]
  return {name: value for part in parts for name, value in part.items() if value is not None}


def _by_shards(section: Section) -> list[Section]:
  """The section; where results cannot share a table, one more for each other way of training a method's shards.

  A method's first way, which stays with the methods that have no shards, has the fewest epochs; of several such, it is
  the one that most results share.
  """
  if _differ(section.results):
    return [section]
  ways = [_shard_settings(result) for result in section.results]
  first: dict[str, dict[str, Any]] = {}
  for result, way in sorted(
    zip(section.results, ways, strict=True),
    key=lambda pair: (pair[1].get("num_epochs", 0), -ways.count(pair[1]), json.dumps(pair[1], sort_keys=True)),
  ):
    first.setdefault(result["method"], way)
  groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {(): []}
  for result, way in zip(section.results, ways, strict=True):
    usual = first[result["method"]]
    said = tuple(
      f"{value} epochs a shard" if name == "num_epochs" else f"{name} {value} in shards"
      for name, value in way.items()
      if usual.get(name) != value
    )
    groups.setdefault(said, []).append(result)
  return [section._replace(results=members, shards=said) for said, members in sorted(groups.items())]


def _by_epochs(section: Section) -> list[Section]:
  """The section, or where its results cannot share a table a section for each number of epochs."""
  if _differ(section.results):
    return [section]
  groups: dict[int, list[Mapping[str, Any]]] = {}
  for result in section.results:
    groups.setdefault(_epochs(result), []).append(result)
  return [section._replace(results=members, epochs=epochs) for epochs, members in groups.items()]


def _differ(results: Sequence[Mapping[str, Any]]) -> bool:
  """Whether they can share a table: no two are of one method and seed, nor of one method and different settings."""
  cells = [(result["method"], seed) for result in results for seed in result["seeds"]]
  of_method: dict[str, list[Mapping[str, Any]]] = {}
  for result in results:
    of_method.setdefault(result["method"], []).append(result)
  return len(set(cells)) == len(cells) and all(conflict(members) is None for members in of_method.values())


def _rows(section: Section) -> list[Row]:
  named = next((r.get("forget_hash") for r in section.results if r.get("forget_hash")), None)
  return collect([r if r.get("forget_hash") else {**r, "forget_hash": named} for r in section.results])


def _figure(figure: _page_plots.Figure, title: str = "") -> str:
  head = f"<h3>{html.escape(title)}</h3>" if title else ""
  said = f"<figcaption>{html.escape(figure.caption)}</figcaption>" if figure.caption else ""
  return f"<figure>{head}{figure.svg}{said}</figure>"


def _section(section: Section, anchor: str, colours: Mapping[str, int]) -> str:
  rows, runs = _rows(section), _page_table.runs_of(section.results)
  figures = _page_plots.pareto(rows, colours)
  figures += filter(
    None,
    (
      _page_plots.by_method(
        rows,
        "completeness.auc",
        "AUC",
        "AUC of forgotten against retained pairs; the band is Retrain's mean ± sd. Right of it a method forgets more "
        "than retraining, left of it less.",
        colours,
      ),
      _page_plots.by_method(
        rows,
        "efficiency.seconds",
        "seconds",
        "Seconds of the request without compilation, of Original of its fit; error bars are one sd over seeds.",
        colours,
      ),
    ),
  )
  drawn = "".join(map(_figure, figures))
  return (
    f'<section id="{anchor}" aria-labelledby="{anchor}-name"><h2 id="{anchor}-name">{html.escape(section.name)}</h2>'
    f"{_page_table.table(rows, runs, anchor, section.name)}{_page_table.runs_list(runs, anchor)}"
    f'<div class="figures">{drawn}</div></section>'
  )


def _curves(curves: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
  groups: dict[str, list[str]] = {}
  for curve in curves:
    drawn = _figure(_page_lines.draw(curve), str(curve["title"]))
    groups.setdefault(str(curve.get("heading") or "Curves"), []).append(drawn)
  return [(heading, f'<div class="figures">{"".join(drawn)}</div>') for heading, drawn in groups.items()]


def page(results: Sequence[Mapping[str, Any]], *, title: str, curves: Sequence[Mapping[str, Any]] = ()) -> str:
  """The page as text; see `write_page`."""
  results = [plain(result) for result in results]
  sections = _arranged(sections_of(results))
  methods = sorted({str(result["method"]) for result in results}, key=lambda method: (rank(method), method))
  colours = {method: index for index, method in enumerate(method for method in methods if method != "retrain")}
  colours["retrain"] = -1
  body = []
  links: dict[str, list[tuple[str, str]]] = {}
  for index, section in enumerate(sections, 1):
    links.setdefault(section.dataset, []).append((f"s{index}", section.name))
    body.append(_section(section, f"s{index}", colours))
  for index, (heading, drawn) in enumerate(_curves(_page_lines.check(curves)), 1):
    links.setdefault("Curves", []).append((f"c{index}", heading))
    name = f'<h2 id="c{index}-name">{html.escape(heading)}</h2>'
    body.append(f'<section id="c{index}" aria-labelledby="c{index}-name">{name}{drawn}</section>')
  listed = "".join(_links(group, links[group], alone=len(links) == 1) for group in links)
  style, script = ((_ASSETS / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
  said = html.escape(title)
  return (
    f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<meta name="color-scheme" content="light dark">\n'
    f'<link rel="icon" href="data:,">\n<title>{said}</title>\n<style>\n{style}</style>\n</head>\n<body>\n'
    f'<header><h1>{said}</h1><p class="lead">{_LEAD}</p><nav aria-label="Sections">{listed}</nav></header>\n'
    f"<main>\n{chr(10).join(body)}\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
  )


def write_page(
  results: Sequence[Mapping[str, Any]],
  path: PathLike,
  *,
  title: str,
  curves: Sequence[Mapping[str, Any]] = (),
) -> Path:
  """Writes the page, whole or not at all, and returns its path.

  Args:
    results: as from `_results.load_results`; one section for each dataset and model.
    path: the file to write; its folder is made.
    title: heading of the page.
    curves: line plots after the tables; what they hold is said at `_page_lines.check`.

  Raises:
    ValueError: results cannot share a table (`_report.collect`), or a curve is not one.
    OSError: it cannot be written; the message names it.
  """
  content = page(results, title=title, curves=curves)
  target = Path(path)
  temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(content.encode("utf-8", "replace"))  # JSON may hold half a surrogate pair
    os.replace(temporary, target)
  except OSError as error:
    raise OSError(error.errno, f"Cannot write the page {target}: {error.strerror}", str(target)) from error
  finally:
    temporary.unlink(missing_ok=True)
  return target
