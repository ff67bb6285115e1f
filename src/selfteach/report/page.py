"""The pages: what stands on them, and the one environment that renders them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from selfteach.errors import UserError
from selfteach.report import curves, plot, reading, several_runs, text, turns
from selfteach.report.explorer import explorer
from selfteach.report.learned import Learned, doubts, learned
from selfteach.report.others import Other, Picture, Scatter, few, picture, scatters
from selfteach.report.plot import Drawing, draw
from selfteach.report.reading import RunData, Sample, dotted, table
from selfteach.report.rows import Row
from selfteach.wording import duration

MOST_PAIRS = 40
ALARM = ("name", "since", "seen", "advice")
SCRIPTS = {"report.html": ("page.js", "explorer.js"), "comparison.html": ("page.js",)}
"""What runs on each page."""


@dataclass(frozen=True)
class Pair:
    """One held-out problem's answer before and after training."""

    before: Sample
    after: Sample

    @property
    def change(self) -> str:
        """became right · became wrong · still right · still wrong · ungraded"""
        first, last = self.before.right, self.after.right
        if first is None or last is None:
            return "ungraded"
        return f"{'still' if first == last else 'became'} {'right' if last else 'wrong'}"


@dataclass(frozen=True)
class RunView:
    """A run as the template shows it."""

    data: RunData
    title: str
    source: str
    formula: str
    state: str
    facts: dict[str, str]
    learned: Learned
    doubts: list[str]
    leading: list[Drawing]
    charts: list[Drawing]
    more_charts: list[Drawing]
    others: list[tuple[Other, list[Scatter], Picture | None]]
    others_left_out: int
    pairs: list[Pair]
    pairs_left_out: int
    alarms: list[dict[str, Any]]
    changed: list[tuple[str, Any, Any]] | None
    settings: list[tuple[str, Any]]
    result: list[tuple[str, Any]]


def build_report(run: Path | Sequence[Path], out: Path | None = None) -> Path:
    """Write one or several run folders as one HTML page and return its path.

    Default: ``report.html`` in a single run's folder, ``report-NAMES.html`` beside the first of several.

    The page reads nothing else, loads nothing, and shows what models and data wrote as inert text.
    Raises ``UserError`` if a folder holds no run or the page cannot be written.
    """
    folders = [Path(run)] if isinstance(run, str | Path) else [Path(one) for one in run]
    if not folders:
        raise UserError("no run folder given; name at least one")
    runs = [reading.read_run(folder) for folder in folders]
    labels = distinct([one.name for one in runs])
    named = list(zip(labels, runs, strict=True))
    together = [(label, curves.columns(one.metrics)) for label, one in named] if len(runs) > 1 else []
    headline = " · ".join(dict.fromkeys(one.headline for one in runs))
    views = [view(one) for one in runs]
    html = render(
        "report.html",
        columns=[name for name in dict.fromkeys(n for one in views for n in one.facts) if name != "model"],
        title=text.cut(f"{runs[0].recipe}: {labels[0]}", 120) if len(runs) == 1 else f"{len(runs)} runs",
        runs=list(zip(labels, views, strict=True)),
        shared=[draw(chart) for chart in several_runs.shared_charts(together, headline)],
        shared_more=[draw(chart) for chart in several_runs.other_shared_charts(together)],
        differing=differing_settings(runs),
        explorer=explorer(named),
    )
    return written(html, out or place_of(folders))


def place_of(folders: Sequence[Path]) -> Path:
    """One run's page stands in its folder; that of several beside the first, so that no run's own is written over."""
    if len(folders) == 1:
        return folders[0] / "report.html"
    names = "-".join(dict.fromkeys(folder.resolve().name for folder in folders))
    return folders[0].resolve().parent / f"report-{names[:100]}.html"


# --- what a run's page shows


def view(run: RunData) -> RunView:
    found = curves.columns(run.metrics)
    about = table(run.config, "about")
    pairs, shown = paired(run.samples), few(run.others)
    main, others = curves.main_charts(found, run.headline), curves.other_charts(found)
    leading = curves.leading_charts(found, main, others)
    seen = {chart.shows for chart in leading}
    return RunView(
        data=run,
        title=str(about.get("title", "")),
        source=str(about.get("source", "")),
        formula=str(about.get("formula", "")),
        state=state(run),
        facts=facts(run, found),
        learned=learned(run),
        doubts=doubts(run, found),
        leading=[draw(chart) for chart in leading],
        charts=[draw(chart) for chart in main if chart.shows not in seen],
        more_charts=[draw(chart) for chart in others if chart.shows not in seen],
        others=[(one, scatters(one), picture(one)) for one in shown],
        others_left_out=len(run.others) - len(shown),
        pairs=pairs[:MOST_PAIRS],
        pairs_left_out=len(pairs[MOST_PAIRS:]),
        alarms=sounded(run.metrics),
        changed=differing_from_paper(run.config),
        settings=list(dotted({k: v for k, v in run.config.items() if k not in ("about", "paper")}).items()),
        result=list(dotted(run.summary).items()),
    )


def state(run: RunData) -> str:
    if run.stopped:
        return f"Stopped by itself {run.stopped}"
    if run.summary:
        return f"Finished after {text.number(run.last_step)} steps."
    if run.failure:
        step, reason = run.failure.get("step"), run.failure.get("reason", "unknown reason")
        return f"Stopped at step {text.number(step)}: {reason}. The batch is in the folder failed/."
    if not run.metrics:
        return "Nothing measured yet."
    return f"Not finished: still going on, or interrupted after step {text.number(run.last_step)}."


def sounded(metrics: Sequence[Row]) -> list[dict[str, Any]]:
    """The alarms of the collapse watch, each as it last sounded; what a row lacks is ""."""
    rows = [one for row in metrics if isinstance(row.get("alarms"), list) for one in row["alarms"]]
    known = [{key: one.get(key, "") for key in ALARM} for one in rows if isinstance(one, dict)]
    return list({str(one["name"]): one for one in known}.values())


def facts(run: RunData, found: curves.Columns) -> dict[str, str]:
    """The few numbers to see first, by label."""
    shown = [("task", str(table(run.config, "run").get("task", "")))]
    shown += [("model", str(table(run.config, "loading").get("model", "")))]
    shown += [("seed", text.number(table(run.config, "run").get("seed", "")))]
    if headline := found.get(curves.HEADLINE):
        errors = dict(found.get(f"{curves.HEADLINE}_se", ()))
        first, last = (text.measured(y, errors.get(x)) for x, y in (headline[0], headline[-1]))
        shown += [(run.headline, first if len(headline) == 1 else f"{first} → {last}")]
    if spent := found.get(f"spent/{run.unit}"):
        shown += [(f"{run.unit} spent", text.number(spent[-1][1]))]
    if seconds := text.as_number(run.summary.get("training_seconds")):
        shown += [("training time", duration(seconds))]
    return {label: value for label, value in shown if value}


def paired(samples: Sequence[Sample]) -> list[Pair]:
    """Before and after of each problem: losses first, then gains, then what stayed."""
    before, after = (
        {one.key: one for one in reversed(samples) if one.phase == phase} for phase in ("before", "after")
    )
    pairs = [Pair(before[key], after[key]) for key in reversed(before) if key in after]
    order = ("became wrong", "became right", "still wrong", "still right", "ungraded")
    return sorted(pairs, key=lambda pair: order.index(pair.change))


def differing_from_paper(config: Row) -> list[tuple[str, Any, Any]] | None:
    """(knob, value, the paper's value) where they differ; None if the run did not write the paper's values."""
    paper = dotted(table(config, "paper"))
    if not paper:
        return None
    own = dotted({k: v for k, v in table(config, "recipe").items() if k not in ("name", "preset")})
    # TOML has no null: a knob that is absent is one that is none.
    return [(k, own.get(k), paper.get(k)) for k in {**own, **paper} if own.get(k) != paper.get(k)]


def differing_settings(runs: Sequence[RunData]) -> list[tuple[str, list[Any]]]:
    """(setting, its value in each run) where the runs differ; a setting that a run lacks is None there."""
    every = [dotted({k: v for k, v in run.config.items() if k not in ("about", "paper")}) for run in runs]
    names = {name: None for one in every for name in one}
    rows = [(name, [one.get(name) for one in every]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values)]


def distinct(names: Sequence[str]) -> list[str]:
    """Folder names, numbered where two are the same."""
    return [
        f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]


# --- rendering


def environment() -> Environment:
    """Escapes everything; strings that come from files also lose their hidden characters."""
    made = Environment(
        loader=PackageLoader("selfteach.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    made.filters |= {
        "block": text.block,
        "number": text.number,
        "exact": text.exact,
        "clip": text.clip,
        "name": text.name,
        "rounded": rounded,
        "measured": text.measured,
        "duration": duration,
    }
    made.globals |= {"plot": plot, "turns": turns}
    return made


def rounded(value: object, name: str = "") -> Markup:
    """A measured number in a few digits, the whole of it in a tooltip; bytes as MB or GB."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text.name(text.exact(value))
    few = text.size(value) if name.endswith("_bytes") and abs(value) < 1e30 else text.number(value)
    return Markup('<span title="{}">{}</span>').format(text.exact(value), few)


def shown(value: object) -> str:
    return value if isinstance(value, Markup) else text.visible(str(value))


def render(name: str, **values: Any) -> str:
    """A page with its style and scripts inside; the browser is told to run those scripts and nothing else."""
    made = environment()
    style, *scripts = (made.loader.get_source(made, file)[0] for file in ("style.css", *SCRIPTS[name]))  # type: ignore[union-attr]
    allowed = " ".join(f"'{fingerprint(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; style-src '{fingerprint(style)}'; script-src {allowed}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    inside = {"style": Markup(style), "scripts": [Markup(script) for script in scripts]}
    return made.get_template(name).render(policy=policy, **inside, **values)


def fragment(name: str, **values: Any) -> str:
    """A part of a page that is not ours: no scripts."""
    return environment().get_template(name).render(**values)


def fingerprint(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def written(html: str, path: Path) -> Path:
    aside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(html, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise UserError(f"{path} could not be written ({error.strerror}); choose another --out") from error
    return path
