"""What one step of six kinds of recipes computes, exactly, as formulas of the lengths of its own rows.

A guard against waste that no timing can fool. Each expectation is a small function that says in words what is done
today; a change that spares work makes it fail until its formula says the smaller number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from counting import UNKNOWN, Counts, Forward, Passes, Projection, counting
from runs import TextRun
from runs import run_of as tiny_run
from selfteach.cli.train import configured
from selfteach.objective.batch import STUDENT
from selfteach.studies.laptop import LAPTOP
from selfteach.task.trajectory import Trajectory

TEACHER, REFERENCE = "teacher", "reference"
SMALL = (
    "--max-tokens", "28", "--steps", "2", "--eval-problems", "0", "--samples-every", "0", "--device", "cpu",
    "--max-unavailable", "1",
)  # fmt: skip
WORDS: Mapping[str, tuple[str, ...]] = {
    "opsd": ("--prompts", "5"),
    "sdpo": ("--prompts", "2", "--per-prompt", "3"),
    "grpo": ("--prompts", "2", "--per-prompt", "4"),
    "avsd": ("--prompts", "4"),
    "exopd": ("--prompts", "5", "--estimator", "sampled"),
    "lightning-opd": ("--prompts", "4", "--stored", "6", "--sft-steps", "0"),
}
READS_STATISTICS = ("exopd", "lightning-opd")
"""Their terms read log-probs of the whole batch before the loss is known."""
MICRO_BATCHES = (None, 2)


@dataclass(frozen=True)
class Step:
    """``written``: rows that were sampled in it; ``rows``: those that it trains on. ``seen``: (role, row) → tokens that
    it reads before that row, for those that it can see. ``micro``: rows scored at once (None: all). ``read``: are
    statistics of the whole batch read?"""

    written: Sequence[Trajectory]
    rows: Sequence[Trajectory]
    seen: Mapping[str, Sequence[int | None]]
    micro: int | None
    read: bool

    @property
    def positions(self) -> int:
        return sum(len(one.ids) for one in self.rows)

    @property
    def several(self) -> bool:
        """Whether the batch is scored in several micro-batches."""
        return self.micro is not None and len(self.rows) > self.micro


def padded(lengths: Sequence[int], most: int | None) -> Passes:
    """Rows in their order, so many at once, each call padded to its longest."""
    size = most or max(1, len(lengths))
    parts = [lengths[at : at + size] for at in range(0, len(lengths), size)]
    return Passes(len(parts), sum(len(part) * max(part) for part in parts), sum(lengths))


# --- sampling ---------------------------------------------------------------------------------------------------


def prompts_read(step: Step) -> Passes:
    """One call reads every answer's prompt (a group's once an answer), padded to the longest."""
    return padded([len(one.prompt_ids) for one in step.written], None)


def tokens_decoded(step: Step) -> Passes:
    """Then a token of every row a call, also of those that have ended, until the longest has: its last is not read."""
    calls = max(len(one.ids) for one in step.written) - 1
    return Passes(calls, len(step.written) * calls, sum(min(len(one.ids), calls) for one in step.written))


def positions_sampled(step: Step) -> int:
    """The head makes logits of every row's last position, at each call."""
    return len(step.written) * max(len(one.ids) for one in step.written)


# --- scoring ----------------------------------------------------------------------------------------------------


def row_lengths(rows: Sequence[Trajectory]) -> list[int]:
    return [len(one.prompt_ids) + len(one.ids) for one in rows]


def student_scored(step: Step) -> dict[tuple[str, bool], Passes]:
    """Prompt and answer of every row, once with gradient; where statistics are read and micro-batches are several once
    more before, without."""
    whole = padded(row_lengths(step.rows), step.micro)
    again = {(STUDENT, False): whole} if step.read and step.several else {}
    return {(STUDENT, True): whole, **again}


def scored_by(step: Step, *roles: str) -> Passes:
    """The rows that roles of equal weights see, one role's after the other's, what each reads before them included."""
    lengths = [
        before + len(row.ids)
        for role in roles
        for before, row in zip(step.seen[role], step.rows, strict=True)
        if before is not None
    ]
    return padded(lengths, step.micro)


def positions_scored(step: Step, roles: int = 1) -> int:
    """Every written position of the batch reaches the head of each role, whether it sees it or not: once for the loss
    (whatever is watched is measured on the same logits), and once for statistics, where any are read."""
    return roles * step.positions * (2 if step.read else 1)


# --- six recipes ------------------------------------------------------------------------------------------------


def run_of(name: str, out: Path, micro: int | None, *more: str) -> TextRun:
    given = dict(zip(SMALL[::2], SMALL[1::2], strict=True)) | dict(zip(more[::2], more[1::2], strict=True))
    cut = () if micro is None else ("--micro-batch", str(micro))
    options = [word for pair in given.items() for word in pair]
    words = [name, "--task", LAPTOP[name].world, "--out", str(out), *options, *WORDS[name], *cut]
    return TextRun(configured(words)[0])


def counted(run: TextRun, name: str, micro: int | None, stored: bool = False) -> tuple[Counts, Step]:
    """The next step of a run, counted."""
    with counting(run) as counts:
        run.stepped()
    batch = run.batch
    seen = {
        role: [None if ids is None else len(ids) for ids in context.prompts]
        for role, context in batch.contexts.items()
    }
    written = run.learner.writing.store("distill").trajectories if stored else batch.rows
    return counts, Step(written, batch.rows, seen, micro, name in READS_STATISTICS)


def expect_sampling(counts: Counts, step: Step) -> None:
    assert counts.by_weights("sample") == {(STUDENT, False): prompts_read(step)}
    assert counts.decoding() == {STUDENT: tokens_decoded(step)}
    assert counts.positions("sample") == {STUDENT: positions_sampled(step)}


TEACHERS: Mapping[str, Callable[[Step], dict[str, tuple[str, ...]]]] = {
    "opsd": lambda step: {TEACHER: (TEACHER,)},
    "sdpo": lambda step: {TEACHER: (TEACHER,)},
    "grpo": lambda step: {},
    "avsd": lambda step: {"+".join(step.seen): tuple(step.seen)},
    "exopd": lambda step: {TEACHER: (TEACHER,), REFERENCE: (REFERENCE,)},
}
"""Weights beside the student's → the roles that score with them. Three views of one frozen model are one."""


WAITS: Mapping[str, Mapping[int | None, int]] = {
    "opsd": {None: 60, 2: 146},
    "sdpo": {None: 54, 2: 142},
    "grpo": {None: 49, 2: 102},
    "avsd": {None: 99, 2: 196},
    "exopd": {None: 87, 2: 236},
    "lightning-opd": {None: 35, 2: 61},
}
"""Recipe → micro-batch → how often the host waits for the device in a step, but for sampling: in scoring, loss,
optimizer and metrics. Never more; lower a number when a wait is spared."""
WAITS_A_BATCH = 8
"""The same around the tokens of a batch that is sampled."""


def waits_while_sampling(step: Step) -> int:
    """Each token asks whether all rows have ended; where prompts are padded, each call asks whether the mask is whole,
    and so does the one before the first."""
    tokens = max(len(one.ids) for one in step.written)
    is_padded = len({len(one.prompt_ids) for one in step.written}) > 1
    return WAITS_A_BATCH + tokens + (tokens + 1 if is_padded else 0)


def waits_elsewhere(counts: Counts) -> int:
    return sum(counts.waiting(phase) for phase in ("collect", "view", "grade", "update", "metrics"))


@pytest.mark.parametrize("micro", MICRO_BATCHES)
@pytest.mark.parametrize("name", TEACHERS)
def test_a_step_computes_what_its_rows_say(name: str, micro: int | None, tmp_path: Path) -> None:
    run = run_of(name, tmp_path / "run", micro)
    counts, step = counted(run, name, micro)
    teachers = TEACHERS[name](step)
    expect_sampling(counts, step)
    assert counts.by_weights("update") == student_scored(step) | {
        (weights, False): scored_by(step, *roles) for weights, roles in teachers.items()
    }
    assert counts.positions("update") == {STUDENT: positions_scored(step)} | {
        weights: positions_scored(step, len(roles)) for weights, roles in teachers.items()
    }
    assert counts.waiting("sample") <= waits_while_sampling(step)
    assert waits_elsewhere(counts) <= WAITS[name][micro]


@pytest.mark.parametrize("micro", MICRO_BATCHES)
def test_stored_answers_are_written_and_scored_once(micro: int | None, tmp_path: Path) -> None:
    """In the first step; from then on nobody but the student is asked. The student itself is scored beside the teacher
    as the stored answers are, though nobody reads it."""
    run = run_of("lightning-opd", tmp_path / "run", micro)
    counts, step = counted(run, "lightning-opd", micro, stored=True)
    stored = padded(row_lengths(step.written), micro)
    assert counts.by_weights("sample") == {
        (STUDENT, False): together(prompts_read(step), stored),
        (TEACHER, False): stored,
    }
    assert counts.decoding() == {STUDENT: tokens_decoded(step)}
    answers = sum(len(one.ids) for one in step.written)
    assert counts.positions("sample") == {STUDENT: positions_sampled(step), TEACHER: answers}
    again, later = counted(run, "lightning-opd", micro, stored=True)
    for found, at in ((counts, step), (again, later)):
        assert found.by_weights("update") == student_scored(at)
        assert found.positions("update") == {STUDENT: positions_scored(at)}
        assert waits_elsewhere(found) <= WAITS["lightning-opd"][micro]
    assert not again.by_weights("sample")
    assert not again.decoding()
    assert not again.positions("sample")


def together(*several: Passes) -> Passes:
    return Passes(
        sum(one.calls for one in several),
        sum(one.pushed for one in several),
        sum(one.real for one in several),
    )


def test_waits_do_not_grow_with_the_answers(tmp_path: Path) -> None:
    waits = []
    for tokens in ("6", "28"):
        run = run_of("opsd", tmp_path / tokens, 2, "--max-tokens", tokens)
        counts, step = counted(run, "opsd", 2)
        assert max(len(one.ids) for one in step.rows) == int(tokens)
        waits.append({key: times for key, times in counts.waits.items() if key[0] != "sample"})
    assert waits[0] == waits[1]


# --- that it counts at all --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "operation"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: float(x.sum()), "_local_scalar_dense"),
        (lambda x: bool((x > 0).any()), "_local_scalar_dense"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.cpu(), "cpu"),
        (lambda x: x[x > 0], "index"),
        (lambda x: x.masked_fill_(x > 0, 1.0), None),
        (lambda x: (x > 0).nonzero(), "nonzero"),
        (lambda x: torch.equal(x, x), "equal"),
        (lambda x: torch.softmax(x, -1), None),
    ],
)
def test_what_waits_is_counted_once(
    call: Callable[[torch.Tensor], object], operation: str | None, tiny: str
) -> None:
    run = tiny_run(tiny)
    with counting(run) as counts:
        call(torch.ones(3))
    assert dict(counts.waits) == ({} if operation is None else {("", operation): 1})


def test_a_pass_of_weights_that_nobody_knows_is_seen_too(tiny: str) -> None:
    run = tiny_run(tiny)
    model = deepcopy(run.learner.policy.model)
    ids = torch.tensor([[5, 6, 7], [5, run.learner.policy.renderer.pad_id, 7]])
    with counting(run) as counts, torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
        model(ids[:, :1], past_key_values=cache)
    assert counts.forwards == [
        Forward("", UNKNOWN, False, rows=2, width=3, real=5, past=0),
        Forward("", UNKNOWN, False, rows=2, width=1, real=2, past=3),
    ]
    assert counts.projections == [Projection("", UNKNOWN, 6), Projection("", UNKNOWN, 2)]
