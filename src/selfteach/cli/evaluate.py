"""``selfteach eval``: held-out accuracy of a model on a task, as it is or under a teacher's view."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch

from selfteach.cli.console import parsed
from selfteach.cli.train import require_model
from selfteach.errors import UserError
from selfteach.policy.loading import load_policy
from selfteach.policy.sampler import Sampling
from selfteach.roles.view import Answer, Messages, Plain, Prefix, Solution, View
from selfteach.task.arena import model_folder
from selfteach.task.opening import TaskOptions, open_task
from selfteach.train.config import Loading
from selfteach.train.text.evaluation import evaluate


@dataclass(frozen=True)
class Arguments:
    task: str = "table"
    """table, chain, gym:NAME, hf:ID, or a .jsonl or .parquet file."""
    problems: int = 256
    """Held-out problems."""
    samples: int = 4
    """Answers sampled for each problem."""
    temperature: float = 1.0
    """Sampling temperature (0: greedy)."""
    top_p: float = 1.0
    """Nucleus sampling mass (1: off)."""
    top_k: int = 0
    """Sample from the k likeliest tokens only (0: off)."""
    max_tokens: int = 64
    """Longest answer, in tokens."""
    thinking: bool | None = None
    """Thinking flag of the chat template (none: its own default)."""
    view: Literal["plain", "solution", "answer", "prefix"] = "plain"
    """What the model sees: the bare problem, or what a teacher would be shown."""
    prefix: Messages = ()
    """The turns of view "prefix": a JSON list of role and content."""
    batch: int = 256
    """Answers sampled at once."""
    seed: int = 0
    """Seed of problems and sampling."""
    out: Path | None = None
    """Write the result as JSON, with every answer."""
    loading: Loading = field(default_factory=Loading)
    task_options: TaskOptions = field(default_factory=TaskOptions)


def command(words: Sequence[str]) -> int:
    given = parsed(Arguments, words, program="selfteach eval", default=Arguments())
    require_model(given.loading.model, given.task, given.task_options)
    task = open_task(given.task, seed=given.seed, options=given.task_options)
    cuda = torch.cuda.is_available() and given.loading.device == "auto"
    policy = load_policy(
        given.loading.model or str(model_folder(given.task)),
        precision=given.loading.precision,
        trained=False,
        chat_template=given.loading.chat_template,
        revision=given.loading.model_revision,
        trust_remote_code=given.loading.trust_remote_code,
        device="cuda" if cuda else "cpu",
    )
    result, answers = evaluate(
        policy,
        task,
        problems=given.problems,
        samples=given.samples,
        sampling=Sampling(given.max_tokens, given.temperature, given.top_p, given.top_k),
        thinking=given.thinking,
        view=viewed(given),
        batch_size=given.batch,
        seed=given.seed,
    )
    print(
        f"accuracy {result.accuracy:.3f} ± {result.accuracy_se:.3f} (standard error over {result.problems} problems)  "
        f"pass@{result.k} {result.pass_at_k:.3f}  length {result.length:.1f} tokens  finished {result.finished:.2f}"
    )
    if given.out is not None:
        rows = [
            {"key": a.example.key, "problem": a.example.problem, "answer": a.text, "reward": a.grade.reward}
            for a in answers
        ]
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(
            json.dumps({"result": asdict(result), "answers": rows}, indent=1), encoding="utf-8"
        )
    return 0


def viewed(given: Arguments) -> View:
    if given.view == "prefix" and not given.prefix:
        raise UserError("view prefix needs its turns: --prefix FILE")
    views: dict[str, View] = {
        "plain": Plain(), "solution": Solution(), "answer": Answer(), "prefix": Prefix(given.prefix),
    }  # fmt: skip
    return views[given.view]
