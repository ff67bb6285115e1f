"""What a run has to train and to be measured on: refused or said before a model is loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from selfteach.checks import require
from selfteach.recipes.base import Recipe
from selfteach.task.environment import environment_of, limit_of
from selfteach.task.example import Task, is_graded
from selfteach.task.one import OneQuestion
from selfteach.task.self_play import lacks_self_play
from selfteach.task.sizes import Sizes, require_enough, sizes_of
from selfteach.training.config import TrainConfig
from selfteach.training.text import dtypes
from selfteach.training.text.annotate import require_annotator


def examined(
    config: TrainConfig, task: Task, also: Sequence[Task], stages: Mapping[str, Recipe]
) -> list[str]:
    """What is to be told of the data, a line each. UserError for too few rows, a measure without a problem to be
    measured on, and options that contradict each other."""
    refuse_contradictions(config, stages)
    if any(one.annotated for one in stages.values()):
        require_annotator(task)
    require(
        is_graded(task) or all(one.hook is None for one in stages.values()),
        f"recipe {config.recipe_name} validates its weights as it goes, but nothing is graded here: --reward FILE:NAME",
    )
    if any(one.self_play for one in stages.values()):
        lacking = lacks_self_play(task)
        require(
            lacking is None,
            f"recipe {config.recipe_name} has a policy pose its problems, but task {task.name} has no {lacking}: take "
            "--task reverse, or give it these (selfteach.task.self_play)",
        )
    if environment_of(task) is not None:
        refuse_single_answers(config, task, stages)
    sizes = require_enough(task)
    for one in stages.values():
        refuse_contradicting_draws(one, sizes)
    said = dtypes.without_effect(config, stages)
    return [
        *said,
        *([] if sizes is None else data_lines(sizes, stages)),
        *evaluation_lines(config, task, also),
    ]


def refuse_single_answers(config: TrainConfig, task: Task, stages: Mapping[str, Recipe]) -> None:
    """UserError where a stage writes single answers, but the task's problems are episodes of several turns."""
    limit_of(task)
    for name, one in stages.items():
        where = "" if len(stages) == 1 else f", stage {name},"
        require(
            not getattr(one, "overlong_cache", 0),
            f"recipe {config.recipe_name}{where} takes off for long answers (overlong_cache), which is not defined of "
            "episodes: leave it out",
        )
        require(
            one.is_for_episodes,
            f"recipe {config.recipe_name}{where} writes single answers, but task {task.name} is an environment of "
            "several turns: take a recipe that plays episodes, or a task of single answers",
        )
        require(
            not one.annotated,
            f"recipe {config.recipe_name}{where} has answers annotated, which nobody does with episodes",
        )


def refuse_contradictions(config: TrainConfig, stages: Mapping[str, Recipe]) -> None:
    """UserError where one option would make another do nothing."""
    dtypes.refuse_contradictions(config.loading, stages, config.vllm)
    evaluation, book, data = config.evaluation, config.bookkeeping, config.task_options
    if evaluation.eval_problems == 0:
        require(
            evaluation.eval_every == 0,
            f"eval_every is {evaluation.eval_every}, but eval_problems is 0: raise it, or leave eval_every out",
        )
        require(
            not evaluation.eval_also,
            "eval_also names tasks, but eval_problems is 0: raise eval_problems, or leave eval_also out",
        )
    require(
        book.token_budget is None or any(one.generates for one in stages.values()),
        f"recipe {config.recipe_name} writes no tokens that a token_budget could end: set steps instead",
    )
    require(
        not (book.until_solved and config.reward is None and data.verifier == "none"),
        "until_solved waits for a right answer, but verifier none calls none right: choose one, or give a reward",
    )


def refuse_contradicting_draws(recipe: Recipe, sizes: Sizes | None) -> None:
    """UserError where Poisson samples are asked of answers that are stored, or of more records than there are."""
    records = recipe.optimization.poisson_records
    require(
        not (records and recipe.rollouts.stored),
        "poisson_records draws anew at every step, stored answers once: leave one of them out",
    )
    require(
        sizes is None or records <= sizes.rows,
        f"poisson_records is {records:,}, but there are {0 if sizes is None else sizes.rows:,} rows to train on: set "
        "it to that, or lower",
    )


def data_lines(sizes: Sizes, stages: Mapping[str, Recipe]) -> Iterator[str]:
    """How many rows there are, and how often each stage reads them."""
    yield f"data: {sizes}"
    if asked := kept_out_of(stages.values()):
        kept = probed_of(sizes, asked)
        yield f"data: training problems kept out of training, to be measured on: {kept} of {asked} asked for"
    for name, recipe in stages.items():
        stage, o, stored = (
            ("" if len(stages) == 1 else f"stage {name}: "),
            recipe.optimization,
            recipe.rollouts.stored,
        )
        drawn = stored or o.steps * o.prompts
        what = (
            f"{stored:,} prompts answered once" if stored else f"{o.steps:,} steps of {o.prompts:,} prompts"
        )
        again = "; rows are drawn again within a step" if not stored and o.prompts > sizes.rows else ""
        yield f"data: {stage}{what} over {sizes.rows:,} rows: {drawn / sizes.rows:.3g} epochs{again}"


def evaluation_lines(config: TrainConfig, task: Task, also: Sequence[Task]) -> Iterator[str]:
    """Where fewer problems are held out than are to be asked. UserError where there is none."""
    asked = config.evaluation.eval_problems
    if asked == 0:
        return
    if not is_graded(task):
        yield "evaluation: nothing is graded, so there is no held-out accuracy (--reward FILE:NAME gives one)"
        return
    names = [one.name for one in also]
    for name in names:
        require(
            name != "" and name.isprintable() and names.count(name) == 1,
            f"--eval-also: each task needs a name of its own, for its metrics are called after it; {name!r} is "
            f"{'that of several' if names.count(name) > 1 else 'none'}: leave one out, or set its attribute name",
        )
    for one in (task, *also):
        found = len(one.held_out(asked))
        require(
            found > 0,
            f"task {one.name} has no held-out problem to be measured on ({asked} were asked for): give it some, or set "
            "eval_problems to 0",
        )
        # Of rows the task itself says so; of one question there is no more to say.
        if found < asked and sizes_of(one) is None and not isinstance(one, OneQuestion):
            yield f"evaluation: {found} problems of {one.name}: of {asked} asked for, no more are held out"


def kept_out_of(stages: Collection[Recipe]) -> int:
    """How many training problems a probe of references or a hook's validation asks for."""
    probes = [one.reference_probe.examples for one in stages if one.reference_probe is not None]
    return max([*probes, *(one.hook.problems for one in stages if one.hook is not None)], default=0)


def probed_of(sizes: Sizes, asked: int) -> int:
    """How many training problems are kept out of training: as many as asked, at most a quarter."""
    return min(asked, max(1, sizes.problems // 4))
