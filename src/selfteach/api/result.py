"""A run as Python sees it: its numbers, its model, its report; it shows itself in a notebook."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfteach.api.showing import chosen, write_metrics
from selfteach.errors import UserError
from selfteach.policy.loading import load_policy
from selfteach.report import build_report, notebook_card
from selfteach.report.reading import RunData, read_run, table
from selfteach.report.rows import read_rows
from selfteach.report.text import as_number, measured, number
from selfteach.training.runconfig import is_without_tokens
from selfteach.wording import duration

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Result:
    """A run's folder, finished or not. Everything is read from it when it is asked for."""

    folder: Path
    given: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What ``train`` was given as objects, which the folder does not hold."""

    @property
    def data(self) -> RunData:
        """The folder's content as the report reads it. UserError if it holds no run."""
        return read_run(self.folder)

    @property
    def config(self) -> Mapping[str, Any]:
        """Every resolved setting, as in config.toml."""
        return self.data.config

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One row a step, evaluations among them (docs/metrics.md: names and units)."""
        return [dict(row) for row in self.data.metrics]

    @property
    def summary(self) -> Mapping[str, Any]:
        """What summary.json holds; empty while the run is not finished."""
        return self.data.summary

    @property
    def finished(self) -> bool:
        return bool(self.summary)

    @property
    def model(self) -> Path:
        """The folder of the trained model, as transformers loads it. UserError while there is none."""
        if not (folder := self.folder / "model").is_dir():
            raise UserError(f"{self.folder} holds no trained model: the run is not finished; resume it")
        return folder

    @property
    def before(self) -> float | None:
        """The headline (held-out accuracy) before training; None if it was not measured."""
        points = self.curve("eval/headline")
        return points[0][1] if points else None

    @property
    def after(self) -> float | None:
        """The headline at the last evaluation; None if it was not measured."""
        points = self.curve("eval/headline")
        return points[-1][1] if points else None

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of a metric, where a row has it."""
        points = [(row["step"], as_number(row.get(metric))) for row in self.metrics]
        return [(step, value) for step, value in points if value is not None]

    def frame(self) -> pandas.DataFrame:
        """The metrics as a data frame, one row a step. UserError without pandas."""
        try:
            import pandas
        except ImportError:
            raise UserError("frame() needs pandas: pip install pandas, or use .metrics") from None
        return pandas.DataFrame(self.metrics)

    def samples(
        self,
        *,
        step: int | None = None,
        phase: str | None = None,
        key: str | None = None,
        outcome: str | None = None,
    ) -> list[dict[str, Any]]:
        """The answers that the run wrote down (samples.jsonl), those alone that fit all that is given: ``phase``
        "before", "train", "probe" or "after"; ``outcome`` "right", "wrong", "cut off" … (docs/evaluate.md)."""
        rows = read_rows(self.folder / "samples.jsonl", [])
        return chosen(rows, step=step, phase=phase, key=key, outcome=outcome)

    def csv(self, path: Path | str) -> None:
        """Write the metrics as CSV, one row a step and one an evaluation."""
        write_metrics(self.metrics, path)

    def load(self, device: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The trained model (an adapter merged into its base) and its tokenizer, in evaluation mode. UserError for a
        run without tokens."""
        if is_without_tokens(self.config):
            name = self.config["recipe"]["name"]
            raise UserError(
                f"recipe {name} trains no causal language model: its weights are safetensors in {self.model}"
            )
        policy = load_policy(str(self.model), trained=False, device=device)
        return policy.model, policy.tokenizer  # type: ignore[return-value]

    def report(self) -> Path:
        """Write the report as one HTML page into the folder, and return its path."""
        return build_report(self.folder)

    def resume(self, **knobs: Any) -> Result:
        """Go on with the run, or beyond its end with ``steps`` or ``token_budget`` raised; see ``selfteach.train``.

        Recipe, task, reward and model that were objects are passed again where this is not what ``train`` returned:
        ``resume(task=rows, reward=score)``.
        """
        from selfteach.api.training import train

        return train(out=self.folder, resume=True, **{**self.given, **knobs})

    def lines(self) -> list[tuple[str, str]]:
        """What is worth a look, as (label, value)."""
        data = self.data
        run, recipe = table(data.config, "run"), table(data.config, "recipe")
        found = [("recipe", f"{recipe.get('name')}, preset {recipe.get('preset')}, on {run.get('task')}")]
        errors = dict(self.curve("eval/headline_se"))
        if points := self.curve("eval/headline"):
            shown = [measured(value, errors.get(step)) for step, value in (points[0], points[-1])]
            found.append((data.headline, " → ".join(shown if len(points) > 1 else shown[:1])))
        found.append(("steps", number(data.last_step) + ("" if self.finished else ", not finished")))
        if data.stopped:
            found.append(("stopped", f"by itself {data.stopped}"))
        if spent := self.curve(f"spent/{data.unit}"):
            found.append((f"{data.unit} spent", number(spent[-1][1])))
        if (seconds := as_number(self.summary.get("training_seconds"))) is not None:
            found.append(("training", duration(seconds)))
        return found

    def __repr__(self) -> str:
        shown = [*self.lines(), ("folder", str(self.folder))]
        width = max(len(label) for label, _ in shown)
        return "\n".join(f"{label:<{width}}  {value}" for label, value in shown)

    def _repr_html_(self) -> str:
        """The headline's curve, the first numbers, and a link to the report."""
        return notebook_card(self.data, self.lines(), linked(self.report()))


def linked(page: Path) -> str:
    """A page's address for a link in a notebook's cell, whatever the folder is called."""
    return quote("./" + os.path.relpath(page))


def load_run(folder: Path | str) -> Result:
    """The run in a folder that ``selfteach train`` made. UserError if it holds none."""
    result = Result(Path(folder))
    _ = result.data
    return result
