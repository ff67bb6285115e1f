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
from selfteach.recipes import RECIPES
from selfteach.studies.laptop import laptop_of
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
READS_STATISTICS = ("exopd",)
"""Its term reads its teachers' log-probs of the whole batch before the loss is known."""
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


def padded(lengths: Sequence[int], most: int | None) -> Passes:
    """Rows in their order, so many at once, each call padded to its longest."""
    size = most or max(1, len(lengths))
    parts = [lengths[at : at + size] for at in range(0, len(lengths), size)]
    return Passes(len(parts), sum(len(part) * max(part) for part in parts), sum(lengths))


# --- sampling ---------------------------------------------------------------------------------------------------


def prompts_read(step: Step) -> Passes:
    """One call reads every distinct prompt (a group's once), padded to the longest."""
    return padded([len(ids) for ids in distinct_prompts(step)], None)


def distinct_prompts(step: Step) -> set[tuple[int, ...]]:
    return {tuple(one.prompt_ids) for one in step.written}


def rows_decoded(step: Step) -> list[int]:
    """Rows of each further call: those that have ended leave as soon as they are an eighth of those there; what is
    drawn last is not read."""
    ends, calls = [len(one.ids) if one.finished else None for one in step.written], []
    for token in range(1, max(len(one.ids) for one in step.written)):
        ended = [end is not None and end <= token for end in ends]
        if 8 * sum(ended) >= len(ends):
            ends = [end for end, over in zip(ends, ended, strict=True) if not over]
        calls.append(len(ends))
    return calls


def positions_sampled(step: Step) -> int:
    """The head makes logits of every distinct prompt's last position, and of every row at each further call."""
    return len(distinct_prompts(step)) + sum(rows_decoded(step))


# --- scoring ----------------------------------------------------------------------------------------------------


def read_of(contexts: Sequence[int | None], rows: Sequence[Trajectory]) -> list[int]:
    """Tokens of every row that a role sees: its context, and of the answer all but the last, which predicts nothing."""
    pairs = zip(contexts, rows, strict=True)
    return [before + len(row.ids) - 1 for before, row in pairs if before is not None]


def expect_scored(found: Passes, lengths: Sequence[int], step: Step, groups: bool) -> None:
    """Every row once, in passes no dearer than one padded pass for each micro-batch in their order; where several rows
    share a context (``groups``) it may be computed once."""
    whole = padded(lengths, step.micro)
    assert found.pushed <= whole.pushed
    assert found.real <= whole.real if groups else found.real == whole.real
    assert found.real >= whole.real / 2  # of the groups here answers are a half at least


def student_lengths(step: Step) -> list[int]:
    return read_of([len(one.prompt_ids) for one in step.rows], step.rows)


def teacher_lengths(step: Step, *roles: str) -> list[int]:
    """Roles of equal weights are scored together, one's rows after the other's."""
    return [length for role in roles for length in read_of(step.seen[role], step.rows)]


def positions_scored(step: Step, roles: int) -> int:
    """Every written position of the batch reaches the head of each teacher, whether it sees it or not: once for the
    loss (whatever is watched is measured on the same logits), and once for statistics, where any are read. The
    student's head makes logits for the loss alone."""
    return roles * step.positions * (2 if step.read else 1)


# --- six recipes ------------------------------------------------------------------------------------------------


def run_of(name: str, out: Path, micro: int | None, *more: str) -> TextRun:
    given = dict(zip(SMALL[::2], SMALL[1::2], strict=True)) | dict(zip(more[::2], more[1::2], strict=True))
    cut = () if micro is None else ("--micro-batch", str(micro))
    options = [word for pair in given.items() for word in pair]
    words = [name, "--task", laptop_of(RECIPES[name]).world, "--out", str(out), *options, *WORDS[name], *cut]
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
    expect_decoding(counts, step)
    assert counts.positions("sample") == {STUDENT: positions_sampled(step)}


def expect_decoding(counts: Counts, step: Step) -> None:
    (passes,) = counts.decoding().values()
    assert (passes.calls, passes.pushed) == (len(rows_decoded(step)), sum(rows_decoded(step)))


TEACHERS: Mapping[str, Callable[[Step], dict[str, tuple[str, ...]]]] = {
    "opsd": lambda step: {TEACHER: (TEACHER,)},
    "sdpo": lambda step: {TEACHER: (TEACHER,)},
    "grpo": lambda step: {},
    "avsd": lambda step: {"+".join(step.seen): tuple(step.seen)},
    "exopd": lambda step: {TEACHER: (TEACHER,), REFERENCE: (REFERENCE,)},
}
"""Weights beside the student's → the roles that score with them. Three views of one frozen model are one."""


WAITS: Mapping[str, Mapping[int | None, int]] = {
    "opsd": {None: 63, 2: 146},
    "sdpo": {None: 57, 2: 143},
    "grpo": {None: 50, 2: 102},
    "avsd": {None: 108, 2: 201},
    "exopd": {None: 95, 2: 242},
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
    found, groups = counts.by_weights("update"), "--per-prompt" in WORDS[name]
    assert found.keys() == {(STUDENT, True), *((weights, False) for weights in teachers)}
    expect_scored(found[STUDENT, True], student_lengths(step), step, groups)
    for weights, roles in teachers.items():
        expect_scored(found[weights, False], teacher_lengths(step, *roles), step, groups)
    assert counts.positions("update") == {STUDENT: step.positions} | {
        weights: positions_scored(step, len(roles)) for weights, roles in teachers.items()
    }
    assert counts.waiting("sample") <= waits_while_sampling(step)
    assert waits_elsewhere(counts) <= WAITS[name][micro]


@pytest.mark.parametrize("micro", MICRO_BATCHES)
def test_stored_answers_are_written_and_scored_once(micro: int | None, tmp_path: Path) -> None:
    """In the first step; from then on nobody but the student is asked."""
    run = run_of("lightning-opd", tmp_path / "run", micro)
    counts, step = counted(run, "lightning-opd", micro, stored=True)
    sampled = counts.by_weights("sample")
    assert sampled.keys() == {(STUDENT, False), (TEACHER, False)}
    assert sampled[STUDENT, False] == prompts_read(step)
    stored = read_of([len(one.prompt_ids) for one in step.written], step.written)
    expect_scored(sampled[TEACHER, False], stored, step, groups=False)
    expect_decoding(counts, step)
    answers = sum(len(one.ids) for one in step.written)
    assert counts.positions("sample") == {STUDENT: positions_sampled(step), TEACHER: answers}
    again, later = counted(run, "lightning-opd", micro, stored=True)
    for found, at in ((counts, step), (again, later)):
        (passes,) = found.by_weights("update").values()
        expect_scored(passes, student_lengths(at), at, groups=False)
        assert found.positions("update") == {STUDENT: at.positions}
        assert waits_elsewhere(found) <= WAITS["lightning-opd"][micro]
    assert not again.by_weights("sample")
    assert not again.decoding()
    assert not again.positions("sample")


def test_waits_do_not_grow_with_the_answers(tmp_path: Path) -> None:
    waits = []
    for tokens in ("6", "28"):
        run = run_of("opsd", tmp_path / tokens, 2, "--max-tokens", tokens)
        counts, step = counted(run, "opsd", 2)
        assert max(len(one.ids) for one in step.rows) == int(tokens)
        waits.append({key: times for key, times in counts.waits.items() if key[0] != "sample"})
    short, long = (sum(one.values()) for one in waits)
    assert long <= short + 2  # rows may be laid out in a pass more


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
