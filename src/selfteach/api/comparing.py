"""``selfteach.compare``: several recipes and seeds, one after the other in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from html import escape
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfteach.api.fit import chosen_sizes
from selfteach.api.progress import progress_for_here
from selfteach.api.resolve import RecipeLike, safe, text_kind_of
from selfteach.api.result import Result, linked
from selfteach.api.training import ModelLike, configured, train
from selfteach.errors import UserError
from selfteach.studies.comparing import (
    Run,
    Setup,
    about,
    compared,
    refuse_another,
    refuse_changed,
    refuse_ungraded,
    summarized,
    write_results,
)
from selfteach.studies.runs import cells, heads
from selfteach.training.progress import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """``results``: as results.json holds them; ``runs``: label → one run a seed; ``folder`` holds all."""

    folder: Path
    results: Mapping[str, Any]
    runs: Mapping[str, list[Result]]

    @property
    def page(self) -> Path:
        """The curves and the table as one HTML page."""
        return self.folder / "compare.html"

    def rows(self) -> list[dict[str, str]]:
        """The table: for each recipe the headline before and after (mean ± s.e. over seeds), and what was spent."""
        top = heads(self.results["unit"])
        return [dict(zip(top, cells(*one), strict=True)) for one in self.results["recipes"].items()]

    def __repr__(self) -> str:
        rows = self.rows()
        table = [list(rows[0]), *(list(row.values()) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([about(self.results), *lines])

    def _repr_html_(self) -> str:
        rows = self.rows()
        head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row.values()) + "</tr>" for row in rows
        )
        link = f'<a href="{escape(linked(self.page))}" target="_blank">curves</a>'
        return f"<table><caption>{escape(about(self.results))}, {link}</caption><tr>{head}</tr>{body}</table>"


def compare(
    recipes: Iterable[RecipeLike] | Mapping[str, RecipeLike],
    model: ModelLike | None = None,
    task: Any = "table",
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    reward: Callable[..., Any] | str | None = None,
    out: Path | str | None = None,
    progress: Callable[[], Progress] | None = progress_for_here,
    **knobs: Any,
) -> Comparison:
    """Train each recipe with several seeds at equal generated tokens, or equal steps, and put the results side by side.

    ``recipes``: as ``selfteach.train`` takes them, or label → recipe; the first sets the token budget. ``knobs``: the
    fields of ``Setup`` (``seeds=3, equal="tokens", steps=300, points=10`` …), and any setting for every run. ``out``:
    its folder (None: runs/compare-TASK); finished runs there are kept, an interrupted one goes on. UserError if it
    holds another comparison, or if two recipes have one label.
    """
    named = labeled(recipes)
    setup, every = divided(knobs)
    given: dict[str, Any] = {"tokenizer": tokenizer, "reward": reward, **every}
    configs = {label: configured(one, model, task, **given) for label, one in named.items()}
    if not configs:
        raise UserError("which recipes? selfteach.compare([RECIPE, …])")
    first_label, first = next(iter(configs.items()))
    refuse_ungraded(first)
    for label, config in configs.items():
        if config.fitted:
            log.warning("%s: %s", label, config.fitted)
    folder = Path(out) if out is not None else Path("runs") / f"compare-{safe(first.task_name)}"
    model_name = first.loading.model or f"arena {first.task_name}"
    held = {k: v for k, v in asdict(setup).items() if k != "seeds"}
    refuse_another(folder, {**held, "task": first.task_name, "model": model_name, "first": first_label})

    def finish(runs: list[Run]) -> None:
        for run in runs:
            sizes = chosen_sizes(configs[run.label])
            settings = {**sizes, **given, **(run.knobs or {}), "seed": run.seed, "out": run.folder}
            refuse_changed(run, configured(named[run.label], model, task, **settings))
            if not (run.folder / "summary.json").exists():
                begun = (run.folder / "config.toml").exists()
                train(named[run.label], model, task, resume=begun, progress=progress, **settings)

    runs = compared(setup, {label: one.recipe for label, one in configs.items()}, folder, finish)
    command = f"selfteach.compare({list(named)}, seeds={setup.seeds}, …)"
    results = summarized(setup, runs, task=first.task_name, model=model_name, command=command)
    write_results(results, folder)
    by_label: dict[str, list[Result]] = {}
    for run in runs:
        by_label.setdefault(run.label, []).append(Result(run.folder))
    return Comparison(folder, results, by_label)


def divided(knobs: Mapping[str, Any]) -> tuple[Setup, dict[str, Any]]:
    """What is equal between the runs, and the settings of every run. UserError for what is each run's own."""
    own = {one.name for one in fields(Setup)}
    every = {name: value for name, value in knobs.items() if name not in own}
    for name in ("seed", "eval_every", "token_budget", "resume", "config"):
        if name in every:
            raise UserError(
                f"compare sets {name} of each run by itself: leave it out (see seeds, points, tokens)"
            )
    return Setup(**{name: value for name, value in knobs.items() if name in own}), every


def labeled(recipes: Iterable[RecipeLike] | Mapping[str, RecipeLike]) -> dict[str, RecipeLike]:
    """Recipes by label, or by their own names. UserError where two have one, or for a single recipe's name."""
    if isinstance(recipes, str | type):
        raise UserError("compare takes several recipes: a list, or label → recipe")
    if isinstance(recipes, Mapping):
        return dict(recipes)
    found: dict[str, RecipeLike] = {}
    for one in recipes:
        name, preset, _ = text_kind_of(one)
        label = f"{name}:{preset}" if preset else name
        if label in found:
            raise UserError(
                f"two recipes are called {label}: give names to them, compare({{'a': …, 'b': …}})"
            )
        found[label] = one
    return found
