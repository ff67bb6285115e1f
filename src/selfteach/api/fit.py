"""Sizes that fit the machine: preset "auto", which ``train`` takes where nobody named another."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from statistics import quantiles
from typing import Any

from transformers import PreTrainedModel

from selfteach.api.machine import Work, machine_of
from selfteach.errors import UserError
from selfteach.policy.loading import context_window, skeleton
from selfteach.recipes import knobs, preset_of, with_knobs
from selfteach.recipes.base import Size
from selfteach.task.arena import model_folder, resolve_model
from selfteach.task.example import Task
from selfteach.task.sizes import Sizes, sizes_of
from selfteach.training.config import TrainConfig

AUTO = "auto"
"""The preset that is the paper's, with sizes that this machine can do."""
LETTERS = 3
"""Letters of a token, rather too few: how long rows are is guessed before there is a tokenizer."""
LOOKED_AT = 32
"""Rows whose lengths are looked at."""
FEW_ROWS, SHORT, SMALL_GROUP, FEW_STEPS, FEW_PROBLEMS, ENOUGH = 6, 32, 4, 20, 8, 32
"""Sizes are lowered towards these: answers become shorter rather than a step have fewer rows, and so on."""
SHORTEST_WORK = 128
"""Tokens that an answer may have however short the worked solutions are: models say more than people write."""
TEMPLATE = 64
"""Tokens that a chat template or a view may add to the texts that it shows."""
STORING = 2
"""What is written before the first step may take as long as so many steps."""


@dataclass(frozen=True)
class Rows:
    """What is known of the task's rows: tokens, by guess, of the longer prompts and of the longer worked solutions
    (None: there are none), and how many there are (None: the task makes them)."""

    prompt: int
    solution: int | None
    there: Sizes | None = None


def fitted(config: TrainConfig, given: Collection[str]) -> TrainConfig:
    """A run of preset "auto" with sizes for this machine: none above the paper's, none that was ``given`` by name.

    By estimate a step, an evaluation and the run take as long as ``Machine`` allows; schedules keep their shape.
    ``config.fitted`` says each choice beside the paper's value. Raises UserError for a task that cannot be opened.
    """
    if config.preset != AUTO:
        return config
    papers = next(iter(type(config.recipe).presets))
    config = replace(config, opened=config.open_task())
    try:
        model = config.network[0] if config.network else skeleton_of(config)
    except UserError as problem:  # it is said again when it is loaded, after the data were looked at
        return replace(config, preset=papers, fitted=f"sizes are those of preset {papers}: {problem}")
    machine, data = machine_of(config), rows_of(config.opened)
    weights = sum(p.numel() for p in model.parameters())
    work = Work(machine, weights, data.prompt, len(config.recipe.teachers), config.recipe.generates)
    chosen = dict(sizes(config, work, context_window(model), data, set(given)))
    own = {name: value for name, value in chosen.items() if name in knobs(config.recipe)}
    rest: dict[str, Any] = {name: value for name, value in chosen.items() if name not in own}
    before = {**knobs(config.recipe), **asdict(config.evaluation)}
    told = [f"{name} {value} (paper: {before[name]})" for name, value in own.items() if value != before[name]]
    told += [f"{name} {value} (else {before[name]})" for name, value in rest.items() if value != before[name]]
    if not told:
        return replace(config, preset=papers)
    said = f"sizes for this machine ({machine.name}; {weights / 1e6:,.1f} M weights): {', '.join(told)}"
    return replace(
        config,
        recipe=with_knobs(config.recipe, own),
        evaluation=replace(config.evaluation, **rest),
        fitted=f"{said}; --preset paper takes the paper's",
    )


def sizes(
    config: TrainConfig, work: Work, window: int, data: Rows, given: set[str]
) -> Iterator[tuple[str, int]]:
    """(knob, value) of every size that was not given."""
    now, kinds = knobs(config.recipe), {n: k for n, k in type(config.recipe).sizes.items() if n not in given}
    rows = now["prompts"] * now["per_prompt"]
    tokens = now["max_tokens"]
    if "max_tokens" in kinds:
        tokens = answer_tokens(tokens, rows, work, window, data)
    if tokens < now["max_tokens"]:
        yield from named(kinds, "tokens", now, tokens)

    possible = max(1, work.rows_of_a_step(tokens))
    group = now["per_prompt"]
    if "per_prompt" in kinds:
        group = min(group, max(SMALL_GROUP, possible // 2))
        yield "per_prompt", group
    prompts = max(1, possible // group, now["minibatches"])
    yield from named(kinds, "prompts", now, whole_shares(prompts))

    if "prompts" in kinds:
        rows = min(now["prompts"], prompts) * group
    share = min(1.0, work.machine.run / (work.step(rows, tokens) * total_steps(config, now)))
    phases = share  # of warmup and phases, which shrink with steps that were given too
    if "steps" in given:
        phases = min(share, now["steps"] / knobs(preset_of(type(config.recipe)))["steps"])
    for name, kind in kinds.items():
        if kind == "steps" and now[name]:
            yield name, fewer(now[name], share, FEW_STEPS)
        elif kind == "schedule" and now[name]:
            yield name, fewer(now[name], phases, 1)
    writable = work.rows_written(tokens, STORING * work.machine.step) // group
    most = max(whole_shares(prompts), writable)
    if data.there is not None:
        most = min(most, max(data.there.problems, prompts_of_a_step(config, now, kinds, prompts)))
    yield from named(kinds, "stored", now, whole_shares(most))
    yield from evaluation_sizes(config, work, tokens, data, given)


def prompts_of_a_step(config: TrainConfig, now: dict[str, Any], kinds: dict[str, Size], possible: int) -> int:
    """The most prompts that a step of any stage takes: as given, else as chosen."""
    names = [name for name, kind in type(config.recipe).sizes.items() if kind == "prompts"]
    chosen = (min(now[name], whole_shares(possible)) if name in kinds else now[name] for name in names)
    return max(int(one) for one in chosen)


def answer_tokens(paper: int, rows: int, work: Work, window: int, data: Rows) -> int:
    """The longest answer: within the model's window beside a template, prompt and privilege (a power of two where that
    binds: lengths are guesses), twice as long as worked solutions, and short enough that a step has time for a few rows
    and an evaluation for a few problems."""
    longest, room = paper, window - 2 * data.prompt - (data.solution or 0) - TEMPLATE
    if paper > room:
        longest = max(SHORT, 2 ** (max(1, room).bit_length() - 1))
    shortest = SHORT
    if data.solution is not None:
        longest = min(longest, max(SHORTEST_WORK, 2 ** (2 * data.solution - 1).bit_length()))
        # Rather fewer rows than answers that are all cut.
        shortest = min(longest, max(SHORT, data.solution))
    while longest > shortest and (
        work.rows_of_a_step(longest) < min(FEW_ROWS, rows)
        or work.rows_written(longest, work.machine.evaluation) < FEW_PROBLEMS
    ):
        longest = max(shortest, 2 ** ((longest - 1).bit_length() - 1))
    return longest


def chosen_sizes(config: TrainConfig) -> dict[str, Any]:
    """What preset "auto" chose, by knob, but for the steps: for runs of one comparison, which must be alike whatever
    their seeds and cores."""
    if not config.fitted:
        return {}
    own = knobs(config.recipe)
    return {name: own[name] for name, kind in type(config.recipe).sizes.items() if kind != "steps"}


def evaluation_sizes(
    config: TrainConfig, work: Work, tokens: int, data: Rows, given: set[str]
) -> Iterator[tuple[str, int]]:
    """Problems come before samples: more of these tell more."""
    now = config.evaluation
    problems = now.eval_problems if data.there is None else min(now.eval_problems, data.there.held_out)
    answers = work.rows_written(now.eval_max_tokens or tokens, work.machine.evaluation)
    if answers >= problems * now.eval_samples:
        return
    samples = now.eval_samples
    if "eval_samples" not in given:
        samples = max(1, min(samples, answers // min(problems, ENOUGH)))
        yield "eval_samples", samples
    if "eval_problems" not in given:
        yield "eval_problems", min(problems, max(FEW_PROBLEMS, answers // samples))


def named(kinds: dict[str, Size], kind: Size, now: dict[str, Any], most: int) -> Iterator[tuple[str, int]]:
    """The knobs of a kind, at most so large; 0 stays 0, for it switches off."""
    for name, own in kinds.items():
        if own == kind and now[name]:
            yield name, min(now[name], most)


def total_steps(config: TrainConfig, now: dict[str, Any]) -> int:
    return sum(int(now[name]) for name, kind in type(config.recipe).sizes.items() if kind == "steps")


def fewer(paper: int, share: float, least: int) -> int:
    """A share of a number, to two digits."""
    if share >= 1:
        return paper
    value = max(1, int(paper * share))
    digits: int = 10 ** max(0, len(str(value)) - 2)
    return min(paper, max(least, value // digits * digits))


def whole_shares(prompts: int) -> int:
    """So many prompts that every process has as many."""
    processes = int(os.environ.get("WORLD_SIZE", "1") or 1)
    return max(processes, prompts // processes * processes)


def skeleton_of(config: TrainConfig) -> PreTrainedModel:
    """The run's model without its weights. UserError where it cannot be looked at."""
    own, how = config.loading.model, config.loading
    return skeleton(
        resolve_model(own) if own else str(model_folder(config.task)),
        revision=how.model_revision,
        trust_remote_code=how.trust_remote_code,
    )


def rows_of(task: Task) -> Rows:
    """What is known of them: lengths of those held out, which are the same whatever the seed, for runs of several must
    be alike."""
    there = sizes_of(task)
    examples = task.held_out(LOOKED_AT if there is None else min(LOOKED_AT, there.held_out))
    examples += [task.train(i) for i in range(2 if len(examples) < 2 else 0)]
    worked = [one.private["solution"] for one in examples if one.private.get("solution")]
    return Rows(
        longer([sum(len(m["content"]) for m in one.prompt) for one in examples]),
        longer([len(text) for text in worked]) if len(worked) > max(1, len(examples) // 2) else None,
        there,
    )


def longer(letters: list[int]) -> int:
    """Tokens of the row that nine of ten are no longer than."""
    return max(1, int(quantiles(letters, n=10)[-1]) // LETTERS)
