"""Stored rollouts packed for the page's token view: texts once each, columns as 16-bit numbers, a bounded whole."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from selfteach.report.reading import RunData, Sample
from selfteach.report.rollouts import Rollout, rollouts_of
from selfteach.report.text import CUT_CHARACTERS, cut, visible
from selfteach.report.tokens import Array, Look, Tokens
from selfteach.report.turns import MOST_TURNS, who

MOST_BYTES = 13 * 2**20
"""What all rollouts together may take of the page (estimated)."""
BYTES_A_ROLLOUT, BYTES_A_TURN, BYTES_A_NUMBER = 600, 150, 2.7
"""Names and braces; two bytes in base64."""
MOST_PIECE = 1_000
STEPS, MISSING = 65_534, 65_535
PER_NAT = 2_500
SCALE_QUANTILE = 0.98
"""Full color stands for this quantile of a column's absolute values, so that one outlier does not bleach the rest."""
ROUTE = "route"

KINDS = {
    "divergence": ("divergence from {}", "nats"),
    "log_ratio": ("log-ratio, {} over student", "nats"),
    "advantage": ("advantage in {}", ""),
    "weight": ("weight in {}", "× plain token mean"),
    "loss": ("loss in {}", "nats"),
    "entropy": ("entropy of {}", "nats"),
    "surprisal": ("surprise −log p of {}", "nats"),
}
"""What a column's name begins with, in the order of the menu: its label and unit."""


@dataclass(frozen=True)
class Explorer:
    """The page's data as a JSON block, and how many stored rollouts it shows and leaves out."""

    data: Markup
    shown: int
    left_out: int


def explorer(runs: Sequence[tuple[str, RunData]]) -> Explorer:
    """Pack the rollouts and probes of all runs; too many are thinned evenly over the steps."""
    looks: dict[tuple[float, int], list[Sample]] = {}
    for number, (_, run) in enumerate(runs):
        for one in run.samples:
            if one.phase in ("train", "probe"):
                looks.setdefault((one.step, number), []).append(one)
    stored = sorted(looks.items())
    read = [runs[number][1].looks.get(int(step)) for (step, number), _ in stored]
    kept = fitting([estimated(samples, look) for (_, samples), look in zip(stored, read, strict=True)])
    packed, left_out = Packed(), 0
    for i, ((_, number), samples) in enumerate(stored):
        if i not in kept:
            left_out += len(rollouts_of(samples, None))
            continue
        for rollout in rollouts_of(samples, read[i]):
            packed.add(rollout, number)
    data = packed.data([visible(label) for label, _ in runs])
    # Every text in it went through ``visible``, so it can stand as UTF-8: half the size of escapes.
    block = htmlsafe_json_dumps(data, dumps=partial(json.dumps, ensure_ascii=False, separators=(",", ":")))
    return Explorer(Markup(block), len(packed.rollouts), left_out)


def fitting(costs: Sequence[int]) -> set[int]:
    """The indices to keep: as many as ``MOST_BYTES`` holds, spread evenly, the last one always."""
    kept: set[int] = set()
    spent = 0
    for i in spread(len(costs)):
        spent += costs[i]
        if kept and spent > MOST_BYTES:
            break
        kept.add(i)
    return kept


def spread(count: int) -> list[int]:
    """0 … count − 1 from the last one on, so that each beginning of the list covers the range evenly."""
    bits = max(1, (count - 1).bit_length())
    return [count - 1 - i for i in sorted(range(count), key=lambda i: f"{i:0{bits}b}"[::-1])]


def estimated(samples: Sequence[Sample], look: Look | None) -> int:
    """Bytes that a look takes on the page; a text that occurs again within the look counts once."""
    texts = {t for one in samples for t in (one.problem, one.prompt, *one.teacher_prompts.values())}
    turns = [turn for one in samples for turn in one.turns[:MOST_TURNS]]
    texts |= {said for turn in turns for _, said in turn.reply}
    size = sum(len(text[:CUT_CHARACTERS].encode("utf-8", "replace")) for text in texts)
    if look is not None:
        numbers = sum(tensor.size for tensor in look.tensors.values())
    else:
        numbers = sum(len(one.answer) for one in samples)
    return int(size + BYTES_A_NUMBER * numbers) + BYTES_A_ROLLOUT * len(samples) + BYTES_A_TURN * len(turns)


@dataclass
class Packed:
    """Rollouts as the page's script reads them; equal texts and token texts are stored once."""

    texts: dict[str, int] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    routes: dict[str, int] = field(default_factory=dict)
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    measured: dict[str, list[Array]] = field(default_factory=dict)

    def add(self, rollout: Rollout, number: int) -> None:
        one, tokens = rollout.first, rollout.tokens
        self.rollouts.append(
            {
                "run": number,
                "step": one.step,
                "phase": one.phase,
                "key": cut(one.key, MOST_PIECE),
                "reward": finite(one.reward),
                "outcome": one.outcome,
                "why": self.text(one.why),
                **{
                    name: self.text(told)
                    for name, told in (
                        ("claim", one.claim),
                        ("reference", one.reference),
                        ("feedback", one.feedback),
                    )
                    if told is not None
                },
                "cutOff": one.cut_off,
                "length": finite(rollout.length),
                "problem": self.text(one.problem),
                **self.prompts(one),
                **self.turns(rollout),
                **(self.tokens(tokens) if tokens is not None else {"answer": self.text(one.answer)}),
            }
        )

    def prompts(self, one: Sample) -> dict[str, Any]:
        """What the student and each teacher read before a row."""
        return {
            "prompt": self.text(one.prompt),
            "readers": [
                [cut(name, MOST_PIECE), self.text(prompt) if prompt else None]
                for name, prompt in one.teacher_prompts.items()
            ],
        }

    def turns(self, rollout: Rollout) -> dict[str, Any]:
        """The turns of an episode; {} for a single answer."""
        told = list(rollout.turns())
        shown = [
            {
                "number": turn.number,
                "author": cut(turn.author, MOST_PIECE),
                "trains": turn.trains,
                "reward": finite(turn.reward),
                "illegal": turn.illegal,
                "reply": [[cut(who(role), MOST_PIECE), self.text(said)] for role, said in turn.reply],
                "means": means_of(rollout.divergences(turn)),
                **(
                    {"text": self.text(turn.text)}
                    if rollout.tokens is None
                    else {"begin": turn.begin, "end": turn.end}
                ),
                **({} if row is None else self.prompts(row)),
            }
            for turn, row in told[:MOST_TURNS]
        ]
        ending = {"ending": rollout.first.ending} if rollout.first.ending else {}
        return {"turns": shown, "moreTurns": len(told) - len(shown), **ending} if told else {}

    def tokens(self, own: Tokens) -> dict[str, Any]:
        columns = {visible(name): column for name, column in own.columns.items()}
        for name, column in columns.items():
            self.measured.setdefault(name, []).append(column[np.isfinite(column)])
        routes = self.route(columns)
        packed = {name: packed_column(column) for name, column in (columns | routes).items()}
        return {
            "pieces": self.indices(own.pieces),
            "columns": {name: column for name, column in packed.items() if column is not None},
            "tops": {
                visible(role): [self.indices(word for row in rows for word in row), surprisals(probabilities)]
                for role, (rows, probabilities) in own.tops.items()
            },
            "divergence": mean_of(columns, "divergence/"),
        }

    def route(self, columns: Mapping[str, Array]) -> dict[str, Array]:
        """Which terms of the loss select each token, as numbers of ``routes``; {} where no loss was taken."""
        weights = {name.partition("/")[2]: c for name, c in columns.items() if name.startswith("weight/")}
        if not weights or all(np.isnan(c).all() for c in weights.values()):
            return {}
        chosen = np.stack([np.nan_to_num(c) != 0 for c in weights.values()], axis=1)
        labels = [
            " + ".join(n for n, yes in zip(weights, row, strict=True) if yes) for row in chosen.tolist()
        ]
        return {ROUTE: np.array([numbered(self.routes, label or "no term") for label in labels], dtype=float)}

    def text(self, whole: str) -> int:
        return numbered(self.texts, cut(whole, CUT_CHARACTERS))

    def indices(self, words: Iterable[str]) -> Array:
        return np.array([self.word(word) for word in words], dtype="<u4")

    def word(self, raw: str) -> int:
        if raw not in self.seen:
            self.seen[raw] = numbered(self.words, cut(raw, MOST_PIECE))
        return self.seen[raw]

    def data(self, runs: Sequence[str]) -> dict[str, Any]:
        order = list(KINDS)
        names = sorted(
            self.measured, key=lambda name: order.index(kind) if (kind := kind_of(name)) in order else 99
        )
        columns = [described(name, np.concatenate(self.measured[name])) for name in names]
        if self.routes:
            columns.append(
                {"name": ROUTE, "label": "which terms select it", "unit": "", "kind": "route", "scale": 1}
            )
        return {
            "runs": list(runs),
            "texts": list(self.texts),
            "words": list(self.words),
            "wide": len(self.words) > MISSING,
            "routes": list(self.routes),
            "columns": columns,
            "rollouts": [self.coded(one) for one in self.rollouts],
        }

    def coded(self, one: dict[str, Any]) -> dict[str, Any]:
        """Word numbers in two bytes, or four where there are too many words."""
        if "pieces" not in one:
            return one
        width = "<u4" if len(self.words) > MISSING else "<u2"
        tops = {role: [coded(words.astype(width)), how] for role, (words, how) in one["tops"].items()}
        return one | {"pieces": coded(one["pieces"].astype(width)), "tops": tops}


def described(name: str, values: Array) -> dict[str, Any]:
    """A column's label, unit, whether it has a sign, and the value that full color stands for."""
    label, unit = KINDS.get(kind_of(name), (name, ""))
    scale = float(np.quantile(np.abs(values), SCALE_QUANTILE)) if len(values) else 0.0
    # A divergence of 0 may come out as −1e-8.
    signed = kind_of(name) in ("log_ratio", "advantage") or bool((values < -0.01 * scale).any())
    return {
        "name": name,
        "label": label.format(name.partition("/")[2]),
        "unit": unit,
        "kind": "signed" if signed else "amount",
        "scale": rounded(scale) or 1.0,
    }


def kind_of(name: str) -> str:
    return name.partition("/")[0]


def packed_column(values: Array) -> float | list[Any] | None:
    """A number if all are the same, None if none is known, else [least, greatest, base64 of where between them].

    A missing value is ``MISSING``; between the ends there are ``STEPS`` steps.
    """
    known = np.isfinite(values)
    if not known.any():
        return None
    low, high = rounded(values[known].min()), rounded(values[known].max())
    if known.all() and values.min() == values.max():
        return high
    place = np.where(known, (values - low) / ((high - low) or 1.0), 0.0).clip(0, 1)
    return [low, high, coded(np.where(known, np.rint(place * STEPS), MISSING).astype("<u2"))]


def surprisals(probabilities: Array) -> str:
    """−log p in steps of 1/``PER_NAT``: small probabilities keep their digits too."""
    known = np.nan_to_num(probabilities.astype(np.float64)).clip(np.exp(-STEPS / PER_NAT), 1)
    return coded(np.rint(-np.log(known) * PER_NAT).astype("<u2").ravel())


def coded(numbers: Array) -> str:
    return base64.b64encode(numbers.tobytes()).decode()


def numbered(known: dict[str, int], value: str) -> int:
    return known.setdefault(value, len(known))


def mean_of(columns: Mapping[str, Array], prefix: str) -> float | None:
    """The mean over tokens of all columns that begin so, as far as they are known."""
    parts = [column[np.isfinite(column)] for name, column in columns.items() if name.startswith(prefix)]
    values = np.concatenate(parts) if parts else np.array([])
    return rounded(values.mean()) if len(values) else None


def means_of(columns: Iterable[tuple[str, Array]]) -> list[tuple[str, float]]:
    """The mean of each column over its tokens, as far as they are known, by its visible name."""
    means = [(cut(name, MOST_PIECE), mean_of({name: column}, name)) for name, column in columns]
    return [(name, mean) for name, mean in means if mean is not None]


def rounded(value: float) -> float:
    return float(f"{value:.6g}")


def finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
