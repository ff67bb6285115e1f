"""All that a training run is told, resolved: what config.toml holds."""

from __future__ import annotations

from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfteach.importing import is_reference
from selfteach.policy.sharding import Fsdp
from selfteach.recipes import Recipe, preset_of
from selfteach.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    NonNegativeRows,
    PositiveCount,
    PositiveFloat,
    PositiveInt,
    PositiveRows,
    PositiveUnit,
    Seed,
    UnitInterval,
    settings,
)
from selfteach.task.example import Task
from selfteach.task.opening import TaskOptions
from selfteach.task.rows import make_task

FORMAT = 7
"""Of config.toml: 1 was before knobs were spelled as in torch (``optimization``), 2 before none was written, 3 before
there was ``max_memory``, 4 before there were ``optim``, ``teacher_dtype`` and ``metrics_tokens``, 5 before there were
``teacher_cache`` and ``teacher_server``, 6 before ``offload_teachers`` was a word."""


@settings
class Loading:
    """Which model is trained and in what numbers."""

    model: str = ""
    """Folder of a Hugging Face causal language model, or its hub id (empty: the arena world's own)."""
    precision: Literal["float32", "bfloat16", "mixed"] = "float32"
    """float32; bfloat16 arithmetic on float32 weights (mixed); or that, with weights that never move in bfloat16."""
    teacher_dtype: Literal["float32", "bfloat16"] | None = None
    """Numbers in which roles score that are not trained (none: as precision says). Of weights that never move it is
    their storage too; averages and lagged copies stay in float32, where tiny updates are not lost, and compute in it;
    a frozen teacher under LoRA is the base itself, and computes in it. Live teachers are the student."""
    sampler_dtype: Literal["float32", "bfloat16"] | None = None
    """Numbers in which answers are sampled (none: as precision says). bfloat16: from a bfloat16 copy of the weights,
    refreshed after each step; the mismatch is measured and corrected by truncated importance sampling (not of
    stored answers). Evaluations, probes, mixtures and what other roles write are in their own weights' numbers."""
    importance_sampling_cap: PositiveFloat = 2.0
    """Most that a token counts for the sampler having drawn it too rarely: its probability under the weights that are
    trained over the sampler's, cut here (with a sampler_dtype that is not theirs, or use_vllm)."""
    offload_teachers: Literal["none", "cpu", "disk"] = "none"
    """Where teachers' own weights (other models, full copies of the student's, averages) wait until they score: beside
    the student's (none); in the machine's memory, and on the accelerator only while they score (cpu); or in nameless
    files in the folder TMPDIR, whose pages are in memory only while there is room (disk). Numbers are the same."""
    teacher_cache: str | None = None
    """Folder that selfteach score wrote: the answers and scores in it are trained on, and the teachers that made these
    are not loaded (none: they score)."""
    teacher_server: str | None = None
    """Address of a vLLM server (http://localhost:8000/v1) that scores in the place of every teacher that never moves
    (none: they score here)."""
    teacher_model: str | None = None
    """What that server calls the model (none: the only one that it has)."""
    teacher_top_logprobs: PositiveCount = 20
    """Likeliest tokens that the server lists at a position, beside the mass of all others (its own --max-logprobs at
    most)."""
    chat_template: str | None = None
    """A Jinja file used instead of the tokenizer's chat template, or "plain"."""
    model_revision: str | None = None
    """Hub revision of the model."""
    trust_remote_code: bool = False
    """Run model code that comes with the model. Off: code from strangers is code from strangers."""
    gradient_checkpointing: Literal["none", "selective", "full"] = "none"
    """What is computed again in the backward pass instead of being kept: nothing; what is cheap, all but products of
    matrices and attention (selective: about half the memory, some hundredths of a step's time); or layers as a whole
    (full: least memory, a third more time). Gradients are the same."""
    fsdp: Fsdp = "off"
    """Shard weights, gradients and optimizer states over the processes (FSDP2): full_shard gathers a layer while it
    computes, forward and backward; shard_grad_op keeps layers from one to the other. Off: every process has all."""
    ddp_timeout: PositiveCount = 1800
    """Seconds that a process waits for the others before it ends: more than the first one takes to save the run."""
    device: Literal["auto", "cpu"] = "auto"
    """Where to compute: the accelerator if there is one, or the CPU."""

    @property
    def sampled_in(self) -> torch.dtype | None:
        """The sampler's own dtype; None: it is the trained weights' (``precision``)."""
        own = None if self.sampler_dtype == self.precision else self.sampler_dtype
        return {None: None, "float32": torch.float32, "bfloat16": torch.bfloat16}[own]


@settings
class Vllm:
    """Whether vLLM writes the rollouts, and which (docs/vllm.md)."""

    use_vllm: bool = False
    """Sample rollouts with vLLM: the weights are pushed to it after each step, its log-probs are measured against the
    model's and corrected for. Evaluations and what other roles write stay with the models themselves."""
    vllm_mode: Literal["colocate", "server"] = "colocate"
    """vLLM in this process, on the same device; or a vLLM server of this machine, started by yourself."""
    vllm_server_base_url: str = "http://localhost:8000"
    """Where that server is."""
    vllm_server_timeout: PositiveFloat = 240.0
    """Seconds that the server may be away, or leave a request unanswered, before the run stops."""
    vllm_gpu_memory_utilization: PositiveUnit = 0.3
    """Share of the accelerator's memory for vLLM in this process, weights and cache together."""
    vllm_max_model_len: PositiveInt | None = None
    """Most tokens of a prompt and its answer for vLLM in this process (none: the model's window)."""


@settings
class Evaluation:
    """How held-out accuracy is measured."""

    eval_every: NonNegativeInt = 0
    """Steps between evaluations (0: before and after training only)."""
    eval_problems: NonNegativeRows = 128
    """Held-out problems."""
    eval_samples: PositiveRows = 4
    """Answers sampled for each problem: accuracy is their mean, pass@k counts any right one."""
    eval_temperature: NonNegativeFloat = 1.0
    """Sampling temperature of the evaluation (0: greedy)."""
    eval_top_p: PositiveUnit = 1.0
    """Nucleus sampling mass of the evaluation (1: off)."""
    eval_top_k: NonNegativeInt = 0
    """Sample from the k likeliest tokens only in the evaluation (0: off)."""
    eval_also: tuple[str, ...] = ()
    """Further tasks whose held-out accuracy is measured each time: what training makes the model forget."""
    eval_max_tokens: PositiveInt | None = None
    """Longest answer in an evaluation (none: as in training)."""
    eval_thinking: bool | None = None
    """Thinking flag of the chat template in an evaluation (none: as in training)."""


@settings
class Bookkeeping:
    """What is written down, and how work is cut to fit the machine."""

    micro_batch: PositiveRows | None = None
    """Rollouts scored at once (none: as many as there is memory for). Does not change the result."""
    sample_batch: PositiveRows | None = None
    """Rollouts sampled at once (none: as many as there is memory for)."""
    max_memory: PositiveFloat | None = None
    """GB that the run may use, from which follows how much is sampled and scored at once (none: the machine's)."""
    checkpoint_every: NonNegativeInt = 50
    """Steps between checkpoints (0: only at the end or when interrupted)."""
    keep: PositiveInt = 2
    """Checkpoints kept."""
    samples_every: NonNegativeInt = 20
    """Steps between looks at a few rollouts, written down token by token (0: none)."""
    token_rollouts: NonNegativeRows = 4
    """Rollouts of the step written down at each look."""
    probes: NonNegativeRows = 4
    """Held-out problems answered greedily at each look, so that one prompt can be followed through training."""
    metrics_tokens: PositiveCount | None = 4096
    """Tokens of a step, drawn evenly, at which distributions are compared for the metrics (none: all)."""
    token_budget: PositiveCount | None = None
    """Stop before the step that would begin with this many tokens generated (none: run all steps)."""
    until_solved: bool = False
    """Stop after the first step with a right answer (test-time training on one question, see --only)."""
    max_unavailable: UnitInterval = 0.5
    """Largest share of rollouts in a step whose teacher has nothing to see; beyond it the run stops."""
    max_unscored: UnitInterval = 0.1
    """Largest share of rollouts in a step that a teacher's server gave no scores of; beyond it the run stops."""
    max_idle_steps: NonNegativeInt = 20
    """Steps in a row whose gradients are all 0 before the run stops (0: never; until_solved waits without end)."""
    token_classes: str | None = None
    """JSON file of class name → regular expression on a token's text, for divergence by token class."""
    compile: bool = False
    """Compile the closed-form gradients of the loss with torch.compile: seconds at first, faster on a GPU."""
    alarms: bool = True
    """Watch the metrics for signs of collapse, and say what was seen (docs/alarms.md)."""
    track: Literal["tensorboard", "trackio", "wandb"] | None = None
    """Log the metrics to this tracker as well; its package must be installed (none: to the run folder only)."""
    project: str = "selfteach"
    """What the tracker files the run under."""
    run_name: str | None = None
    """What the tracker calls the run (none: the name of its folder)."""

    @property
    def memory(self) -> int | None:
        """``max_memory`` in bytes."""
        return None if self.max_memory is None else int(self.max_memory * 1e9)


@settings
class TrainConfig:
    """One training run."""

    recipe: Recipe
    recipe_name: str
    preset: str
    task: Any
    """The name of a task or FILE:NAME; or a task, rows, or a function that makes one of these."""
    out: Path
    reward: Any = None
    """A reward function of the user's own, or FILE:NAME of one (None: the task's verifier)."""
    seed: Seed = 0
    loading: Loading = Loading()
    task_options: TaskOptions = TaskOptions()
    evaluation: Evaluation = Evaluation()
    bookkeeping: Bookkeeping = Bookkeeping()
    vllm: Vllm = Vllm()
    network: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None
    """A model in memory with its tokenizer, in place of ``loading.model``."""
    fitted: str = ""
    """What preset "auto" chose for this machine, in words."""
    opened: Any = field(default=None, compare=False, repr=False)
    """The task, where it was opened to choose sizes by its rows: a run takes it, and opens none itself."""

    def open_task(self) -> Task:
        """The task of this run. UserError where it cannot be opened."""
        if self.opened is not None:
            found: Task = self.opened
            return found
        return make_task(self.task, reward=self.reward, seed=self.seed, options=self.task_options)

    @property
    def task_name(self) -> str:
        """What the run's record calls its task."""
        return self.task if isinstance(self.task, str) else named(self.task)

    def table(self) -> dict[str, Any]:
        """The config as nested plain values, for config.toml; ``paper`` holds the recipe's own defaults beside."""
        paper = preset_of(type(self.recipe))
        return {
            "about": {
                "format": FORMAT,
                "title": self.recipe.title or type(self.recipe).__name__,
                "source": self.recipe.source,
                "formula": self.recipe.formula,
            },
            "recipe": {"name": self.recipe_name, "preset": self.preset, **asdict(self.recipe)},
            "paper": asdict(paper),
            "run": {
                "task": self.task_name,
                "seed": self.seed,
                **self.rewarded,
                "given": self.given,
                "controlled": self.controlled,
            },
            "loading": asdict(self.loading),
            "task_options": asdict(self.task_options),
            "evaluation": asdict(self.evaluation),
            "bookkeeping": asdict(self.bookkeeping),
            # Where it is not used a record has no such table, as those of earlier runs.
            **({} if self.vllm == Vllm() else {"vllm": asdict(self.vllm)}),
        }

    @property
    def copied_in(self) -> torch.dtype | None:
        """The dtype of a copy of the weights to sample from; None: there is none."""
        return None if self.vllm.use_vllm else self.loading.sampled_in

    @property
    def sampled_apart(self) -> bool:
        """Whether rollouts are sampled in other arithmetic than they are scored in."""
        return self.vllm.use_vllm or self.loading.sampled_in is not None

    @property
    def given(self) -> list[str]:
        """What was given as an object, so that the record alone cannot bring it back."""
        objects = {"task": self.task, "reward": self.reward}
        found = [name for name, one in objects.items() if not (one is None or isinstance(one, str))]
        own = not (self.recipe_name.replace("-", "").isalnum() or is_reference(self.recipe_name))
        return [*found, *(["recipe"] if own else []), *(["model"] if self.network is not None else [])]

    @property
    def controlled(self) -> list[str]:
        """The knobs that controllers find on the way, by the share of all steps that is done."""
        return sorted({knob for stage in self.recipe.stages.values() for knob in stage.controllers})

    @property
    def rewarded(self) -> dict[str, str]:
        if self.reward is None:
            return {}
        return {"reward": self.reward if isinstance(self.reward, str) else named(self.reward)}


def named(thing: Any) -> str:
    """What an object given in Python is called in a run's record: its name, else its kind and length."""
    for attribute in ("name", "__qualname__"):
        if isinstance(name := getattr(thing, attribute, None), str):
            return name
    size = f" of {len(thing)} rows" if hasattr(thing, "__len__") else ""
    return f"{type(thing).__name__}{size}"
