"""``selfteach score RECIPE … --out DIR``: a teacher cache, for ``selfteach train RECIPE … --teacher-cache DIR``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import Any, Literal

from selfteach.api.progress import Lines
from selfteach.checks import require
from selfteach.cli.brief import option_lines
from selfteach.cli.console import parsed
from selfteach.cli.train import arguments, configured
from selfteach.recipes import Recipe
from selfteach.settings import PositiveCount, settings
from selfteach.training.launch import learner_of
from selfteach.training.text.teachers.scoring import scorable, score
from selfteach.words import given_names, option, taken


@settings
class Cached:
    """What is stored of a teacher."""

    top_logprobs: PositiveCount | None = 64
    """Likeliest tokens listed at each position, beside the mass of all others (none: the whole vocabulary, which any
    loss can read)."""
    cache_dtype: Literal["float16", "float32"] = "float16"
    """Numbers in which their log-probs are stored."""
    rollouts: Path | None = None
    """Score these stored answers: a run's folder, or a file RUN/stored/STAGE-0-N.jsonl (none: the recipe writes as
    many as --stored says)."""


def command(words: Sequence[str]) -> int:
    """Write the answers, score them, say what was made."""
    rest, own = list(words), list[str]()
    for one in fields(Cached):
        rest, value = taken(rest, one.name)
        own += [] if value is None else [option(one.name), value]
    if {"-h", "--help", "--help-all"} & set(rest):
        print("What score has beside the options of train:\n" + "\n".join(option_lines(Cached())) + "\n")
    cached = parsed(Cached, own, program="selfteach score")
    config, where = configured(rest, command="score")
    require(where.out is not None, "name the folder of the cache: --out DIR")
    require(
        not where.resume and not given_names(rest) & {"teacher_cache", "teacher_server", "dry_run"},
        "score makes a teacher cache: leave --resume, --dry-run, --teacher-cache, --teacher-server out; one that was "
        "interrupted goes on when it is started again",
    )
    require(
        os.environ.get("WORLD_SIZE", "1") == "1",
        "selfteach score runs in one process: start it without accelerate or torchrun",
    )
    scorable(config, cached.rollouts)
    learner = learner_of(config, Lines())
    learner.preflight()
    made = score(
        learner,
        config.out,
        top_logprobs=cached.top_logprobs,
        dtype=cached.cache_dtype,
        rollouts=cached.rollouts,
    )
    tokens, size = (sum(one.tokens for one in made.shards), sum(one.mark["bytes"] for one in made.shards))
    print(f"cache    {config.out}: {tokens:,} positions, {size:,} bytes")
    beside = ", ".join(option(one.name) for one in fields(Cached))
    print(
        f"train    with the same words but score's own ({beside}), and --teacher-cache in the place of --out"
    )
    return 0


def scored_arguments(recipe: type[Recipe]) -> Any:
    """The options of ``selfteach score`` for one recipe, as a dataclass."""
    return make_dataclass(
        "Scored", [("cached", Cached, field(default_factory=Cached))], bases=(arguments(recipe),), frozen=True
    )
