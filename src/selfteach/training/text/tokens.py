"""What student and teachers thought of every token of a few rollouts: the columns behind the report's token view.

At each look two kinds of rollouts are read: the first few of the step, with what the loss made of them, and greedy
answers to a few fixed held-out problems (the probes), so that one prompt can be followed through training. The
distributions are read after the step's update; weights, losses and advantages are those of the step itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from selfteach.objective.batch import STUDENT
from selfteach.objective.columns import by_position
from selfteach.objective.positions import Positions, chunks, positions_of
from selfteach.objective.statistics import role_entropy
from selfteach.objective.terms import PolicyGradient
from selfteach.policy.draws import Sampling
from selfteach.policy.renderer import Renderer
from selfteach.policy.sampler import LocalSampler
from selfteach.task.environment import environment_of
from selfteach.task.example import Example
from selfteach.task.outcome import outcome, reference_of
from selfteach.task.segment import ENVIRONMENT
from selfteach.task.trajectory import Trajectory
from selfteach.training.learner import Sample
from selfteach.training.text.batch import Scoring
from selfteach.training.text.batching import rows_of
from selfteach.training.text.contexts import Context
from selfteach.training.text.evaluation import Answered, Asked, play_asked
from selfteach.training.text.metrics import gap
from selfteach.training.text.turns import Turn, rollouts, turns_by_row
from selfteach.training.text.update import TextBatch

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner

ANSWERS = 16
"""Answers of an evaluation that are written down."""
TOP = 5
AT_ONCE = 64
LONGEST_CHARACTER = 4
"""Tokens that one character may be spread over: the bytes of its UTF-8."""


def samples(learner: TextLearner, batch: TextBatch | None, phase: str) -> Iterator[Sample]:
    """Answers of the last evaluation before and after training; a look at the step, or at the probes before the first.

    Every process must take part. Moves no random state and no weight: a run that is looked at is the run that is not.
    """
    renderer = learner.policy.renderer
    if phase != "train":
        few = learner.answers_shown[:: learner.config.evaluation.eval_samples][:ANSWERS]
        yield from (Sample("text", answer_row(one, renderer), one.example.key) for one in few)
    if phase == "after" or learner.config.bookkeeping.samples_every == 0:
        return
    seen = look(learner, batch)
    if not seen.rows:
        return
    for key, row in rollout_rows(seen, renderer):
        yield Sample("text", row, key)
    yield Sample("tokens", seen.columns)


@dataclass(frozen=True)
class Look:
    """Rows (the first ``trained`` are the step's, the rest probes), what each role read, and the columns.

    ``turns`` of each row, () where it is one answer; ``rollouts``: the number of the rollout that each row belongs to.
    ``columns``: tensors over all L tokens of the rows in order, [L] or [L, 5], and lists of texts
    (names and units: docs/report.md).
    """

    rows: list[Trajectory]
    contexts: dict[str, Context]
    trained: int
    columns: dict[str, Any]
    turns: list[tuple[Turn, ...]]
    rollouts: list[int]


@torch.no_grad()
def look(learner: TextLearner, batch: TextBatch | None) -> Look:
    """Read the tokens of ``batch`` (None: before training, probes only). Every process must take part."""
    with learner.models.whole(learner.recipe, roles=True):  # a process may have no row to look at
        return seen_in(learner, batch)


def seen_in(learner: TextLearner, batch: TextBatch | None) -> Look:
    few = [] if batch is None else rollouts(batch.rows)[: learner.config.bookkeeping.token_rollouts]
    parts = [*few, *rollouts(probes(learner))]
    turns = [each for part in parts for each in turns_by_row(part, learner.policy.renderer)]
    # Marks and numbers are the step's business.
    shown, probed = (
        [replace(one, marks={}, numbers={}) for one in chain(*some)] for some in (few, parts[len(few) :])
    )
    roles = learner.recipe.active(learner.step) if batch is None else list(batch.contexts)
    read = probe_contexts(learner, roles, probed)
    if batch is not None:
        read = {name: joined(batch.contexts[name], one, len(shown)) for name, one in read.items()}
    rows = [*shown, *probed]
    scoring = learner.batching.scoring(rows, read)
    columns = scores(scoring, learner.recipe.temperature) if rows else {}
    if batch is not None:
        columns |= term_columns(batch, len(shown), sum(len(one.ids) for one in probed))
    columns |= texts(learner.policy.renderer, rows, columns)
    return Look(rows, read, len(shown), columns, turns, [i for i, part in enumerate(parts) for _ in part])


def joined(step: Context, probed: Context, count: int) -> Context:
    """What a role reads before the step's first ``count`` rows and before the probes."""
    begins = [
        *(step.begin(i) for i in range(count)), *(probed.begin(i) for i in range(len(probed.prompts))),
    ]  # fmt: skip
    return Context([*step.prompts[:count], *probed.prompts], begins=begins)


# --- the probes -------------------------------------------------------------------------------------------------


def probes(learner: TextLearner) -> list[Trajectory]:
    """The student's likeliest answers to the first few held-out problems, graded."""
    settings, policy = learner.config.evaluation, learner.policy
    count = min(learner.config.bookkeeping.probes, settings.eval_problems)
    if not count:
        return []
    examples = learner.held_out(learner.task, count)
    prompts = [policy.renderer.prompt_ids(one.prompt, learner.recipe.student_thinking) for one in examples]
    longest = settings.eval_max_tokens or learner.recipe.rollouts.max_tokens
    if environment_of(learner.task) is not None:
        return episodes(learner, examples, prompts, Sampling(longest, temperature=0))
    written = LocalSampler(policy).sample(
        prompts, Sampling(longest, temperature=0), batch_size=learner.config.bookkeeping.sample_batch
    )
    return [
        Trajectory.written(
            example,
            ids,
            one.ids,
            policy.renderer.text(one.ids),
            group=-1 - i,  # no group of the step has a negative number
            finished=one.finished,
            grade=learner.task.grade(example, policy.renderer.text(one.ids)),
        )
        for i, (example, ids, one) in enumerate(zip(examples, prompts, written, strict=True))
    ]


def episodes(
    learner: TextLearner, examples: Sequence[Example], prompts: Sequence[list[int]], sampling: Sampling
) -> list[Trajectory]:
    """The student's likeliest episodes, a row each where its turns extend one another."""
    recipe = learner.recipe
    asked = [
        Asked(i, example, ids, example.key)
        for i, (example, ids) in enumerate(zip(examples, prompts, strict=True))
    ]
    played = play_asked(
        asked, LocalSampler(learner.policy), learner.task, sampling, learner.config.bookkeeping.sample_batch,
        recipe.student_thinking, recipe.rollouts.max_turns,
    )  # fmt: skip
    return rows_of([replace(one, group=-1 - i) for i, one in enumerate(played)])


def probe_contexts(
    learner: TextLearner, roles: Iterable[str], rows: Sequence[Trajectory]
) -> dict[str, Context]:
    """What each role reads before the probes; one may see nothing there without stopping the run."""
    handed = learner.models.handed
    blind = () if handed is None or not handed.stored else set(handed.roles)
    read = learner.batching.views(rows, [name for name in roles if name not in blind])
    # What is stored is all that such a role has an opinion of.
    return {name: read[name] if name in read else Context([None] * len(rows)) for name in roles}


# --- columns ----------------------------------------------------------------------------------------------------


def scores(scoring: Scoring, temperature: float) -> dict[str, Shaped[Tensor, "L"] | Shaped[Tensor, "L k"]]:
    """[L] and [L, k = 5] columns of this process's rows; NaN where the policy did not write the token or the
    role had nothing to see."""
    columns, others = scoring.columns, [name for name in scoring.contexts if name != STUDENT]
    first, shape = scoring.first_row, columns.ids.shape
    spread: dict[str, Shaped[Tensor, "N T"] | Shaped[Tensor, "N T k"]] = {}
    for part in scoring.parts():
        batch = scoring.batch(part)
        for chunk in chunks(batch, torch.ones_like(batch.layout.row, dtype=torch.bool), AT_ONCE):
            at = positions_of(batch, chunk, [STUDENT, *others])
            for name, column in seen_at(at, others, temperature):
                known = columns.seen((name.partition("/")[2],))[chunk.row, chunk.step]
                if name not in spread:
                    nothing = torch.nan if column.is_floating_point() else 0
                    spread[name] = column.new_full((*shape, *column.shape[1:]), nothing)
                spread[name][chunk.row[known], chunk.step[known]] = column[known]
    lengths = [len(one.ids) for one in scoring.rows]
    return {
        "ids": torch.cat([columns.ids[first + i, :n] for i, n in enumerate(lengths)]).int().cpu(),
        **{
            name: torch.cat([column[first + i, :n] for i, n in enumerate(lengths)]).cpu()
            for name, column in spread.items()
        },
    }


def seen_at(
    at: Positions, teachers: Sequence[str], temperature: float
) -> Iterator[tuple[str, Shaped[Tensor, "P"] | Shaped[Tensor, "P k"]]]:
    """The columns of some positions, by name (kind/role)."""
    width = at.logits[STUDENT].shape[1]
    for role in (STUDENT, *teachers):
        k = at.listed[role].k if role in at.listed and not at.listed[role].whole else width
        known = k == width
        # Of one that lists its likeliest tokens at temperature 1: these, whatever the loss is taken at.
        top = at.log_probs(role, temperature if known else 1.0, k).topk(min(TOP, k))
        unknown = top.values.new_full((len(top.values),), torch.nan)
        yield f"log_prob/{role}", at.sampled(role, temperature if known else 1.0).float()
        yield f"entropy/{role}", (role_entropy(at, role, temperature) if known else unknown).float()
        yield f"top_ids/{role}", top.indices.int()
        yield f"top_probs/{role}", top.values.exp().float()
        if role != STUDENT:
            yield (
                f"divergence/{role}",
                gap(at, role, temperature if known else 1.0, None if known else k).float(),
            )


def term_columns(batch: TextBatch, count: int, others: int) -> dict[str, Float[Tensor, "L"]]:
    """[L] weight, loss and advantage of each term at the first ``count`` rows' tokens; NaN for ``others`` more.

    A weight of 1 is a token's share in a plain mean over all written tokens of the batch.
    """
    whole = batch.columns
    lengths = [len(one.ids) for one in batch.rows[:count]]
    first, shape = batch.scoring.first_row, whole.ids.shape
    beside = torch.full((others,), torch.nan)

    def flat(column: Shaped[Tensor, "N T"]) -> Float[Tensor, "L"]:
        parts = [column[first + i, :length].float().cpu() for i, length in enumerate(lengths)]
        return torch.cat([*parts, beside])

    columns = {}
    for weighted in batch.weighted:
        term = weighted.term
        columns[f"weight/{term.name}"] = flat(weighted.coefficients * whole.mask.sum())
        noted = [name for made in batch.outcomes for name in made.token if name.endswith(f"/{term.name}")]
        for name in dict.fromkeys([f"loss/{term.name}", *noted]):
            if name.partition("/")[0] in ("loss", "advantage"):
                columns[name] = flat(spread(batch, name, weighted.coefficients))
        if isinstance(term, PolicyGradient) and not callable(term.advantage):
            columns[f"advantage/{term.name}"] = flat(by_position(term.advantage).expand(shape))
    return columns


def spread(batch: TextBatch, name: str, like: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """A column of the step's outcomes over the whole batch, NaN where none has it."""
    column = torch.full_like(like, torch.nan)
    for made in batch.outcomes:
        if name in made.token:
            column[made.layout.row, made.layout.step] = made.token[name].to(column)
    return column


# --- texts ------------------------------------------------------------------------------------------------------


def texts(
    renderer: Renderer,
    rollouts: Sequence[Trajectory],
    columns: dict[str, Shaped[Tensor, "L"] | Shaped[Tensor, "L k"]],
) -> dict[str, Any]:
    """``lengths`` and ``pieces`` of each rollout; ``vocabulary``: [id, text] of every token in a top list."""
    tops = [column.flatten() for name, column in columns.items() if name.startswith("top_ids/")]
    known = torch.cat(tops).unique().tolist() if tops else []
    return {
        "lengths": [len(one.ids) for one in rollouts],
        "pieces": [pieces(renderer, one.ids) for one in rollouts],
        "vocabulary": list(zip(known, token_texts(renderer, known), strict=True)),
    }


def pieces(renderer: Renderer, ids: Sequence[int]) -> list[str]:
    """Each token's text where it stands. A character spread over several tokens stands with its last ("" before)."""
    found, context_from, pending_from = [], 0, 0
    for end in range(1, len(ids) + 1):
        before = renderer.show(ids[context_from:pending_from])
        after = renderer.show(ids[context_from:end])
        broken = after.endswith("\ufffd") and end - pending_from < LONGEST_CHARACTER and end < len(ids)
        found.append("" if broken else after[len(before) :])
        if not broken:
            context_from, pending_from = pending_from, end
    return found


def token_texts(renderer: Renderer, ids: Sequence[int]) -> list[str]:
    """Each token's text by itself, a leading space kept; one that is no whole character by its name in the
    vocabulary."""
    # Some tokenizers drop the space in front of a text's first token, so the second of a pair is read.
    shown = [(renderer.show([i]), renderer.show([i, i]), i) for i in ids]
    whole = [(pair[len(alone) :], i) for alone, pair, i in shown]
    return [
        text if text and "\ufffd" not in text else str(renderer.tokenizer.convert_ids_to_tokens(i))
        for text, i in whole
    ]


# --- rows of samples.jsonl --------------------------------------------------------------------------------------


def answer_row(one: Answered, renderer: Renderer) -> dict[str, Any]:
    """An answer to a held-out problem."""
    return {
        "problem": one.example.problem,
        "prompt": renderer.show(one.prompt_ids),
        **answered(one),
        **turn_rows(one.turns),
    }


def rollout_rows(seen: Look, renderer: Renderer) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, row) of each row of a look, with every rendered prompt; ``row`` is its place in tokens/step-N.

    ``phase`` is "train" for the step's own, "probe" for greedy answers to held-out problems; ``rollout`` is shared by
    the rows of one, where its turns do not extend one another.
    """
    for i, one in enumerate(seen.rows):
        yield (
            one.example.key,
            {
                "phase": "train" if i < seen.trained else "probe",
                "problem": one.example.problem,
                "row": i,
                "prompt": renderer.show(one.prompt_ids),
                "teacher_prompts": {
                    name: renderer.show(read.prompts[i] or []) for name, read in seen.contexts.items()
                },
                **answered(one),
                **({"rollout": seen.rollouts[i]} if seen.rollouts.count(seen.rollouts[i]) > 1 else {}),
                **turn_rows(seen.turns[i]),
            },
        )


def turn_rows(turns: Sequence[Turn]) -> dict[str, Any]:
    """``turns`` of a row, which one that is a single answer lacks."""
    return {"turns": [asdict(one) for one in turns]} if turns else {}


def own_length(one: Answered | Trajectory) -> int:
    """Tokens of an answer; of an episode without what the environment said, which stands among a trajectory's ids."""
    return sum(who != ENVIRONMENT for who in one.authors) if isinstance(one, Trajectory) else len(one.ids)


def answered(one: Answered | Trajectory) -> dict[str, Any]:
    """What was written, what became of it (``Outcome``) and why: the answer read out of it, and the reference."""
    grade = one.grade
    return {
        "answer": one.text,
        "reward": None if grade is None else grade.reward,
        "outcome": outcome(grade, one.finished),
        "claim": None if grade is None else grade.claim,
        "reference": reference_of(one.example),
        "feedback": None if grade is None else grade.feedback,
        "numbers": {} if grade is None else dict(grade.numbers),
        "finished": one.finished,
        "length": own_length(one),
    }
