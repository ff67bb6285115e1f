"""What student and teachers thought of every token of a few rollouts: the columns behind the report's token view.

At each look two kinds of rollouts are read: the first few of the step, with what the loss made of them, and greedy
answers to a few fixed held-out problems (the probes), so that one prompt can be followed through training. The
distributions are read after the step's update; weights, losses and advantages are those of the step itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from selfteach.objective.batch import STUDENT
from selfteach.objective.positions import Positions, chunks, positions_of
from selfteach.objective.statistics import role_entropy
from selfteach.objective.terms import PolicyGradient
from selfteach.policy.renderer import Renderer
from selfteach.policy.sampler import GenerateSampler, Sampling
from selfteach.task.trajectory import Trajectory
from selfteach.train.context import Context
from selfteach.train.metrics import gap
from selfteach.train.run import Run, Step
from selfteach.train.scored import Scorer

TOP = 5
AT_ONCE = 64
LONGEST_CHARACTER = 4
"""Tokens that one character may be spread over: the bytes of its UTF-8."""


@dataclass(frozen=True)
class Look:
    """Rollouts (the first ``trained`` are the step's, the rest probes), what each teacher read, and the columns.

    ``columns``: tensors over all L tokens of the rollouts in order, [L] or [L, 5], and lists of texts
    (names and units: docs/report.md).
    """

    rollouts: list[Trajectory]
    contexts: dict[str, Context]
    trained: int
    columns: dict[str, Any]


@torch.no_grad()
def look(run: Run, step: Step | None) -> Look:
    """Read the tokens of ``step`` (None: before training, probes only). Every process must take part.

    Moves no random state and no weight, so a run that is looked at is the run that is not.
    """
    # Marks are the step's business; a scorer wants the same ones on all of its rollouts.
    shown = [replace(one, marks={}) for one in step.rollouts] if step is not None else []
    shown = shown[: run.config.bookkeeping.token_rollouts]
    asked = probes(run)
    read = probe_contexts(
        run, step.contexts if step is not None else run.recipe.active(run.stage_done), asked
    )
    if step is not None:
        read = {
            name: Context([*step.contexts[name].prompts[: len(shown)], *probed.prompts])
            for name, probed in read.items()
        }
    rollouts = [*shown, *asked]
    columns = opinions(run.scorer(rollouts, read), run.recipe.temperature) if rollouts else {}
    if step is not None:
        columns |= term_columns(step, len(shown), sum(len(one.ids) for one in asked))
    return Look(rollouts, read, len(shown), {**columns, **texts(run.policy.renderer, rollouts, columns)})


# --- the probes -------------------------------------------------------------------------------------------------


def probes(run: Run) -> list[Trajectory]:
    """The student's likeliest answers to the first few held-out problems, graded."""
    settings = run.config.evaluation
    count = min(run.config.bookkeeping.probes, settings.eval_problems)
    if not count:
        return []
    chat, examples = run.policy.renderer, run.task.held_out(count)
    prompts = [chat.prompt_ids(one.prompt, run.recipe.student_thinking) for one in examples]
    longest = settings.eval_max_tokens or run.recipe.rollouts.max_tokens
    greedy = Sampling(longest, temperature=0)
    batch = run.config.bookkeeping.sample_batch
    written = GenerateSampler(run.policy).sample(prompts, greedy, batch_size=batch)
    return [
        Trajectory.written(
            example,
            ids,
            one.ids,
            chat.text(one.ids),
            group=-1 - i,  # no group of the step has a negative number
            finished=one.finished,
            grade=run.task.grade(example, chat.text(one.ids)),
        )
        for i, (example, ids, one) in enumerate(zip(examples, prompts, written, strict=True))
    ]


def probe_contexts(run: Run, teachers: Iterable[str], rollouts: Sequence[Trajectory]) -> dict[str, Context]:
    """What each teacher reads before the probes; a teacher may see nothing there without stopping the run."""
    devices = [run.policy.model.device] if run.policy.model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # a teacher that reasons first samples
        return run.views(rollouts, teachers)


# --- columns ----------------------------------------------------------------------------------------------------


def opinions(scorer: Scorer, temperature: float) -> dict[str, Tensor]:
    """[L] and [L, 5] columns of this process's rollouts; NaN where the policy did not write the token or the
    teacher had nothing to see."""
    columns, teachers = scorer.columns, list(scorer.teachers)
    first, shape = scorer.first_row, columns.ids.shape
    spread: dict[str, Tensor] = {}
    for start in scorer.starts:
        batch = scorer.batch(start, gradient=False)
        for chunk in chunks(batch, torch.ones_like(batch.layout.row, dtype=torch.bool), AT_ONCE):
            at = positions_of(batch, chunk, [STUDENT, *teachers])
            for name, column in seen_at(at, teachers, temperature):
                known = columns.seen((name.partition("/")[2],))[chunk.row, chunk.step]
                if name not in spread:
                    nothing = torch.nan if column.is_floating_point() else 0
                    spread[name] = column.new_full((*shape, *column.shape[1:]), nothing)
                spread[name][chunk.row[known], chunk.step[known]] = column[known]
    lengths = [len(one.ids) for one in scorer.rollouts]
    return {
        "ids": torch.cat([columns.ids[first + i, :n] for i, n in enumerate(lengths)]).int().cpu(),
        **{
            name: torch.cat([column[first + i, :n] for i, n in enumerate(lengths)]).cpu()
            for name, column in spread.items()
        },
    }


def seen_at(at: Positions, teachers: Sequence[str], temperature: float) -> Iterator[tuple[str, Tensor]]:
    """The columns of some positions, by name (kind/role)."""
    for role in (STUDENT, *teachers):
        top = at.log_probs(role, temperature).topk(min(TOP, at.logits[role].shape[1]))
        yield f"log_prob/{role}", at.sampled(role, temperature).float()
        yield f"entropy/{role}", role_entropy(at, role, temperature).float()
        yield f"top_ids/{role}", top.indices.int()
        yield f"top_probs/{role}", top.values.exp().float()
    for name in teachers:
        yield f"divergence/{name}", gap(at, name, temperature).float()


def term_columns(step: Step, count: int, others: int) -> dict[str, Tensor]:
    """[L] weight, loss and advantage of each term at the first ``count`` rollouts' tokens; NaN for ``others`` more.

    A weight of 1 is a token's share in a plain mean over all written tokens of the batch.
    """
    scorer = step.scorer
    lengths = [len(one.ids) for one in step.rollouts[:count]]
    first, shape = scorer.first_row, scorer.columns.ids.shape
    beside = torch.full((others,), torch.nan)

    def flat(rows: Iterator[Tensor]) -> Tensor:
        parts = [row[:length].float().cpu() for row, length in zip(rows, lengths, strict=True)]
        return torch.cat([*parts, beside])

    columns = {}
    for weighted in step.weighted:
        term = weighted.term
        coefficients = weighted.coefficients * scorer.columns.mask.sum()
        columns[f"weight/{term.name}"] = flat(coefficients[first + i] for i in range(count))
        losses = coefficients.new_full(shape, torch.nan)
        for outcome in step.outcomes:
            losses[outcome.layout.row, outcome.layout.step] = outcome.token[f"loss/{term.name}"].to(losses)
        columns[f"loss/{term.name}"] = flat(losses[first + i] for i in range(count))
        if isinstance(term, PolicyGradient):
            advantage = term.advantage if term.advantage.dim() == 2 else term.advantage.unsqueeze(1)
            advantage = advantage.expand(shape)
            columns[f"advantage/{term.name}"] = flat(advantage[first + i] for i in range(count))
    return columns


# --- texts ------------------------------------------------------------------------------------------------------


def texts(chat: Renderer, rollouts: Sequence[Trajectory], columns: dict[str, Tensor]) -> dict[str, Any]:
    """``lengths`` and ``pieces`` of each rollout; ``vocabulary``: [id, text] of every token in a top list."""
    tops = [column.flatten() for name, column in columns.items() if name.startswith("top_ids/")]
    known = torch.cat(tops).unique().tolist() if tops else []
    return {
        "lengths": [len(one.ids) for one in rollouts],
        "pieces": [pieces(chat, one.ids) for one in rollouts],
        "vocabulary": list(zip(known, token_texts(chat, known), strict=True)),
    }


def pieces(chat: Renderer, ids: Sequence[int]) -> list[str]:
    """Each token's text where it stands. A character spread over several tokens stands with its last ("" before)."""
    found, context_from, pending_from = [], 0, 0
    for end in range(1, len(ids) + 1):
        before = chat.show(ids[context_from:pending_from])
        after = chat.show(ids[context_from:end])
        broken = after.endswith("\ufffd") and end - pending_from < LONGEST_CHARACTER and end < len(ids)
        found.append("" if broken else after[len(before) :])
        if not broken:
            context_from, pending_from = pending_from, end
    return found


def token_texts(chat: Renderer, ids: Sequence[int]) -> list[str]:
    """Each token's text by itself, a leading space kept; one that is no whole character by its name in the
    vocabulary."""
    # Some tokenizers drop the space in front of a text's first token, so the second of a pair is read.
    shown = [(chat.show([i]), chat.show([i, i]), i) for i in ids]
    whole = [(pair[len(alone) :], i) for alone, pair, i in shown]
    return [
        text if text and "\ufffd" not in text else str(chat.tokenizer.convert_ids_to_tokens(i))
        for text, i in whole
    ]
