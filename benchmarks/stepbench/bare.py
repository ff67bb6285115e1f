"""The plain loop: what one writes with transformers and torch alone, for the same step.

``float32``: sampler, teacher and student in float32. ``bf16``: the student in float32, sampled from a bfloat16 copy
that is made anew each step, scored by a teacher in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from stepbench.recorder import Finished, Recorder
from stepbench.side import Task, answer, begun, body_of
from stepbench.workload import Row, fingerprint

Ids = list[list[int]]


def run(task: Task) -> dict[str, Any]:
    from transformers import AutoTokenizer

    recorder = task.recorder()
    recorder.watch_passes(body_of(task.model))
    begun(task, recorder)
    torch.manual_seed(task.seed)
    low = torch.bfloat16 if task.precision == "bf16" else torch.float32
    student = loaded(task.model, torch.float32, task.device)
    whose = task.teacher if task.family == "gkd" else task.model
    teacher = loaded(whose, low, task.device)
    sampler = student if low is torch.float32 else loaded(task.model, low, task.device)
    student.generation_config.eos_token_id = sampler.generation_config.eos_token_id = None
    prompts, shown = encoded(task, AutoTokenizer.from_pretrained(task.model))
    optimizer = torch.optim.AdamW(student.parameters(), lr=task.shape.lr, weight_decay=0.0)
    recorder.remember(student)
    try:
        while True:
            new = task.shape.tokens if recorder.warm else task.warmup_tokens
            step(recorder, task, student, teacher, sampler, optimizer, prompts, shown, new)
    except Finished:
        return answer(task, recorder)


def loaded(model: str, dtype: torch.dtype, device: str) -> Any:
    """The model in evaluation mode; weights of safetensors alone, for a pickle may run code."""
    from transformers import AutoModelForCausalLM

    found: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, use_safetensors=True)
    return found.to(device).eval()


def encoded(task: Task, tokenizer: Any) -> tuple[Ids, Ids]:
    """The prompts of all rows as the student and the teacher read them, each prompt ``group`` times in a row."""

    def ids(messages: Sequence[Any]) -> list[int]:
        found = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return list(found["input_ids"])

    def told(row: Row) -> list[Any]:
        content = row["prompt"][-1]["content"] if task.family == "gkd" else row["teacher"]
        return [*row["prompt"][:-1], {"role": "user", "content": content}]

    rows = [row for row in task.workload for _ in range(task.shape.group)]
    return [ids(row["prompt"]) for row in rows], [ids(told(row)) for row in rows]


def padded(rows: Ids, device: str) -> tuple[Tensor, Tensor]:
    """([N, L] ids, padded on the left with 0, and [N, L] their mask)."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def step(
    recorder: Recorder, task: Task, student: Any, teacher: Any, sampler: Any, optimizer: Any, prompts: Ids, shown: Ids,
    new: int,
) -> None:  # fmt: skip
    with recorder.phase("sampling"):
        if sampler is not student:
            with torch.no_grad():
                for low, full in zip(sampler.parameters(), student.parameters(), strict=True):
                    low.copy_(full)
        ids, mask = padded(prompts, task.device)
        whole = sampler.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=True, temperature=1.0, top_k=0,
            top_p=1.0, pad_token_id=0,
        )  # fmt: skip
        written = whole[:, ids.shape[1] :]
    total, size = 0.0, task.shape.micro_batch
    for at in range(0, len(prompts), size):
        part = slice(at, at + size)
        with torch.no_grad():
            taught = states(teacher, shown[part], written[part])
        own = states(student, prompts[part], written[part])
        with recorder.phase("loss"):
            loss = divergence(own, student.lm_head.weight, taught, teacher.lm_head.weight) / written.numel()
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    recorder.note(loss=total, tokens=written.numel(), prompts=fingerprint(zip(prompts, shown, strict=True)))
    recorder.tick()


def states(model: Any, prompts: Ids, written: Tensor) -> Tensor:
    """[N, T, d] final states that predict the written tokens."""
    ids, mask = padded(prompts, str(written.device))
    whole = torch.cat([ids, written], 1)
    attended = torch.cat([mask, torch.ones_like(written)], 1)
    found: Tensor = model.model(
        input_ids=whole,
        attention_mask=attended,
        position_ids=(attended.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
    )[0]
    return found[:, -written.shape[1] - 1 : -1]


def divergence(own: Tensor, head: Tensor, taught: Tensor, taught_head: Tensor) -> Tensor:
    """Σ over tokens of the JSD (β = ½) of two softmaxes, in nats."""
    p = (own @ head.T).float().log_softmax(-1)
    with torch.no_grad():
        q = (taught @ taught_head.T).float().log_softmax(-1)
    mixture = torch.logaddexp(p, q) - math.log(2)
    return (
        kl_div(mixture, p, log_target=True, reduction="sum")
        + kl_div(mixture, q, log_target=True, reduction="sum")
    ) / 2
