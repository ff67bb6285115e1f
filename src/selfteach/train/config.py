"""All that a training run is told, resolved: what config.toml holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from selfteach.recipes.base import Recipe
from selfteach.recipes.checks import require
from selfteach.task.opening import TaskOptions

FORMAT = 2
"""Of config.toml; 1 was before knobs were spelled as in torch (``optimization``)."""


@dataclass(frozen=True)
class Loading:
    """Which model is trained and in what numbers."""

    model: str = ""
    """Folder of a Hugging Face causal language model, or its hub id (empty: the arena world's own)."""
    precision: Literal["float32", "bfloat16", "mixed"] = "float32"
    """float32; bfloat16 arithmetic on float32 weights (mixed); or that, with weights that never move in bfloat16."""
    chat_template: str | None = None
    """A Jinja file used instead of the tokenizer's chat template, or "plain"."""
    model_revision: str | None = None
    """Hub revision of the model."""
    trust_remote_code: bool = False
    """Run model code that comes with the model. Off: code from strangers is code from strangers."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    device: Literal["auto", "cpu"] = "auto"
    """Where to compute: the accelerator if there is one, or the CPU."""


@dataclass(frozen=True)
class Evaluation:
    """How held-out accuracy is measured."""

    eval_every: int = 0
    """Steps between evaluations (0: before and after training only)."""
    eval_problems: int = 128
    """Held-out problems."""
    eval_samples: int = 4
    """Answers sampled for each problem: accuracy is their mean, pass@k counts any right one."""
    eval_temperature: float = 1.0
    """Sampling temperature of the evaluation (0: greedy)."""
    eval_also: tuple[str, ...] = ()
    """Further tasks whose held-out accuracy is measured each time: what training makes the model forget."""
    eval_max_tokens: int | None = None
    """Longest answer in an evaluation (none: as in training)."""

    def __post_init__(self) -> None:
        require(self.eval_every >= 0, f"eval_every must be 0 or more steps, got {self.eval_every}")
        require(self.eval_problems >= 0, f"eval_problems must be 0 or more, got {self.eval_problems}")
        require(self.eval_samples >= 1, f"eval_samples must be at least 1, got {self.eval_samples}")
        require(self.eval_temperature >= 0, "eval_temperature must be 0 (greedy) or positive")


@dataclass(frozen=True)
class Bookkeeping:
    """What is written down, and how work is cut to fit the machine."""

    micro_batch: int | None = None
    """Rollouts scored at once (none: all of a step). Does not change the result."""
    sample_batch: int | None = None
    """Rollouts sampled at once (none: all of a step)."""
    checkpoint_every: int = 50
    """Steps between checkpoints (0: only at the end or when interrupted)."""
    keep: int = 2
    """Checkpoints kept."""
    samples_every: int = 20
    """Steps between looks at a few rollouts, written down token by token (0: none)."""
    token_rollouts: int = 4
    """Rollouts of the step written down at each look."""
    probes: int = 4
    """Held-out problems answered greedily at each look, so that one prompt can be followed through training."""
    token_budget: int | None = None
    """Stop before the step that would begin with this many tokens generated (none: run all steps)."""
    until_solved: bool = False
    """Stop after the first step with a right answer (test-time training on one question, see --only)."""
    max_unavailable: float = 0.5
    """Largest share of rollouts in a step whose teacher has nothing to see; beyond it the run stops."""
    token_classes: str | None = None
    """JSON file of class name → regular expression on a token's text, for divergence by token class."""
    compile: bool = False
    """Compile the closed-form gradients of the loss with torch.compile: seconds at first, faster on a GPU."""
    alarms: bool = True
    """Watch the metrics for signs of collapse, and say what was seen (docs/alarms.md)."""
    track: Literal["tensorboard", "trackio", "wandb"] | None = None
    """Log the metrics to this tracker as well; its package must be installed (none: to the run folder only)."""

    def __post_init__(self) -> None:
        require(self.micro_batch is None or self.micro_batch >= 1, "micro_batch must be at least 1, or none")
        require(
            self.sample_batch is None or self.sample_batch >= 1, "sample_batch must be at least 1, or none"
        )
        require(self.checkpoint_every >= 0, "checkpoint_every must be 0 or more steps")
        require(self.keep >= 1, "keep must be at least 1 checkpoint")
        require(self.samples_every >= 0, "samples_every must be 0 or more steps")
        require(self.token_rollouts >= 0, "token_rollouts must be 0 or more")
        require(self.probes >= 0, "probes must be 0 or more held-out problems")
        require(
            self.token_budget is None or self.token_budget >= 1,
            "token_budget must be at least 1 token, or none",
        )
        require(0 <= self.max_unavailable <= 1, "max_unavailable must lie in [0, 1]")


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    recipe: Recipe
    recipe_name: str
    preset: str
    task: str
    out: Path
    seed: int = 0
    loading: Loading = field(default_factory=Loading)
    task_options: TaskOptions = field(default_factory=TaskOptions)
    evaluation: Evaluation = field(default_factory=Evaluation)
    bookkeeping: Bookkeeping = field(default_factory=Bookkeeping)

    def table(self) -> dict[str, Any]:
        """The config as nested plain values, for config.toml; ``paper`` holds the recipe's own defaults beside."""
        paper = next(iter(type(self.recipe).presets().values()))
        return {
            "about": {
                "format": FORMAT,
                "title": self.recipe.title,
                "source": self.recipe.source,
                "formula": self.recipe.formula,
            },
            "recipe": {"name": self.recipe_name, "preset": self.preset, **asdict(self.recipe)},
            "paper": asdict(paper),
            "run": {"task": self.task, "seed": self.seed},
            "loading": asdict(self.loading),
            "task_options": asdict(self.task_options),
            "evaluation": asdict(self.evaluation),
            "bookkeeping": asdict(self.bookkeeping),
        }
