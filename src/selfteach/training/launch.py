"""Start, resume or rehearse the run that resolved settings ask for, of text or of other networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfteach.errors import within_memory
from selfteach.roles.weights import POLICY
from selfteach.training import randomness
from selfteach.training.config import Bookkeeping, TrainConfig
from selfteach.training.inputs import inputs_of, network_inputs
from selfteach.training.learner import Learner
from selfteach.training.learners import learner_kind, network_learner
from selfteach.training.network_config import NetworkConfig, Tracking
from selfteach.training.progress import Progress, Silent
from selfteach.training.reduce import state_on
from selfteach.training.running import followed, opened, run_learner, versions
from selfteach.training.text.evaluation import HEADLINE
from selfteach.training.text.learner import TextLearner
from selfteach.training.threads import on_threads
from selfteach.training.tracking import tracked
from selfteach.training.trainer import Settings, Trainer
from selfteach.training.whereabouts import STARTED_IN, started_in

Config = TrainConfig | NetworkConfig


@dataclass(frozen=True)
class Ways:
    """How the run of a config is made, whatever it trains."""

    settings: Settings
    tracking: Bookkeeping | Tracking
    make: Callable[[Progress], Learner]
    others: list[str]
    """The folders beside ``model`` that the run will write."""
    ddp_timeout: int = 1800
    """Seconds that processes wait for each other."""


def ways_of(config: Config) -> Ways:
    if isinstance(config, NetworkConfig):
        return Ways(config.settings, config.tracking, lambda shown: network_learner(config), [])
    return Ways(
        settings_of(config),
        config.bookkeeping,
        lambda shown: TextLearner(config, shown),
        other_models(config),
        config.loading.ddp_timeout,
    )


def launch(
    config: Config,
    progress: Callable[[], Progress],
    silent: Callable[[], Progress] = Silent,
    *,
    resume: bool = False,
    check: bool = True,
) -> tuple[Path | None, dict[str, Any]]:
    """Train ``config`` to its end. Returns the run folder (None on processes that do not write) and the summary."""
    config = replace(config, out=Path(config.out))
    ways = ways_of(config)
    first = state_on(ways.settings.device, ways.ddp_timeout).is_main_process
    table = table_of(config)
    shown = tracked(progress(), ways.tracking, table, config.out) if first else silent()
    table = {**table, "run": {**table["run"], STARTED_IN: started_in(config.out)}}
    # Initial weights are drawn at random as they are made: before there is a Trainer.
    randomness.seed_all(ways.settings.seed)
    return run_learner(
        lambda: ways.make(shown), config.out, ways.settings,
        table=table, resume=resume, check=check, progress=lambda: shown, also=ways.others,
    )  # fmt: skip


def rehearse(config: Config, progress: Progress, out: Path | None, *, resume: bool = False) -> None:
    """All that ``launch`` would refuse before its first step, and at the beginning of each further stage, refused now;
    nothing is trained or kept. ``out``: the folder that was asked for, looked at too. Raises UserError."""
    ways = ways_of(config)
    tracked(progress, ways.tracking, {}, config.out)
    if out is not None:
        opened(out, {**table_of(config), "versions": versions()}, resume, ways.others)[0].close()
    randomness.seed_all(ways.settings.seed)
    with within_memory("loading the model"):
        trainer = Trainer(ways.make(progress), None, progress, ways.settings)
    with on_threads(trainer.learner.threads()):
        trainer.learner.preflight()
        while trainer.stage + 1 < len(trainer.stages):
            trainer.begin_next_stage()


def learner_of(config: TrainConfig, progress: Progress) -> TextLearner:
    """The learner of a run of text at its beginning, seeded and on its device; nothing is checked or written."""
    # Adapters are drawn at random as they are made: before there is a Trainer.
    randomness.seed_all(config.seed)
    with within_memory("loading the model"):
        learner = TextLearner(config, progress)
        Trainer(learner, None, progress, settings_of(config))
    return learner


def other_models(config: TrainConfig) -> list[str]:
    """The folders beside ``model`` that the run will write, one for each further set of weights that it trains."""
    trained = [name for stage in config.recipe.stages.values() for name in stage.trained]
    return [f"model-{name}" for name in dict.fromkeys(trained) if name != POLICY]


def settings_of(config: TrainConfig) -> Settings:
    """What the Trainer must know of a run of text."""
    book = config.bookkeeping
    return Settings(
        seed=config.seed,
        eval_every=config.evaluation.eval_every,
        samples_every=book.samples_every,
        checkpoint_every=book.checkpoint_every,
        keep=book.keep,
        budget=book.token_budget,
        alarms=book.alarms,
        max_idle_steps=0 if book.until_solved else book.max_idle_steps,
        device=config.loading.device,
    )


def table_of(config: Config) -> dict[str, Any]:
    """What config.toml holds."""
    table = config.table()
    return {
        **table,
        "run": {**table["run"], **labels_of(config)},
        "inputs": network_inputs(config) if isinstance(config, NetworkConfig) else inputs_of(config),
        "versions": versions(),
    }


def labels_of(config: Config) -> Mapping[str, str]:
    """What the run counts and what its headline is, as ``running.followed`` has them."""
    if isinstance(config, NetworkConfig):
        kind = learner_kind(config.recipe)
        return followed(kind.unit, kind.headline, kind.better)
    return followed("tokens", HEADLINE)
