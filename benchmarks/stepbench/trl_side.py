"""TRL's side: its SDFT, SDPO, Distillation and GKD trainers with settings that make them do the same step.

Equal to the other sides: prompts token for token, rows, new tokens, micro-batches, full-vocabulary JSD at β = ½
against frozen initial weights (Distillation, GKD: against another model's), temperature 1, full weights, AdamW
without decay, a constant rate, gradients clipped at norm 1, one optimizer step a batch, no gradient checkpointing
(TRL's default has it on). TRL's own: the optimizer's implementation ("fused" by default), logging each step, and
the way it pads. ``bf16`` is its default precision (``bf16=True``: float32 weights under autocast); ``bf16-weights``
loads both models in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from stepbench.recorder import Finished, Recorder
from stepbench.side import Task, answer, begun, body_of
from stepbench.workload import fingerprint

NO_STOP = 2**31 - 1
"""An id that no model can write: no token ends an answer."""


def run(task: Task) -> dict[str, Any]:
    torch.manual_seed(task.seed)
    recorder = task.recorder()
    recorder.watch_passes(body_of(task.model))
    make = {"trl-sdft": sdft, "trl-sdpo": sdpo, "trl-distillation": distillation, "trl-gkd": gkd}[
        task.library
    ]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(task.model, padding_side="left")
    trainer = make(task, tokenizer, recorder)
    short(trainer, task, recorder)
    recorder.remember(trainer.model)
    try:
        trainer.train()
    except Finished:
        return answer(task, recorder)
    raise RuntimeError("training ended before its last timed step")


def common(task: Task) -> dict[str, Any]:
    """Settings that every trainer of TRL takes."""
    shape = task.shape
    return {
        "output_dir": task.out, "seed": task.seed, "use_cpu": not task.cuda, "learning_rate": shape.lr,
        "max_steps": task.steps + 2, "per_device_train_batch_size": shape.micro_batch,
        "gradient_accumulation_steps": shape.rows // shape.micro_batch, "lr_scheduler_type": "constant",
        "weight_decay": 0.0, "max_grad_norm": 1.0, "gradient_checkpointing": False, "bf16": task.precision == "bf16",
        "logging_steps": 1, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
        "dataloader_pin_memory": False, "temperature": 1.0,
    }  # fmt: skip


def online(task: Task) -> dict[str, Any]:
    return {
        "max_completion_length": task.shape.tokens,
        "shuffle_dataset": False,
        "generation_kwargs": {"eos_token_id": NO_STOP},
        "model_init_kwargs": {"dtype": dtype_of(task)},
    }


def dtype_of(task: Task) -> str:
    return "bfloat16" if task.precision == "bf16-weights" else "float32"


def sdft(task: Task, tokenizer: Any, recorder: Recorder) -> Any:
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    args = SDFTConfig(
        **common(task), **online(task), num_generations=task.shape.group, max_prompt_length=None,
        distillation_mode="full_logits", distillation_alpha=0.5, teacher_model_kind="base",
        teacher_prompt_template="{prompt}{privileged_context}",
    )  # fmt: skip
    begun(task, recorder)
    trainer = SDFTTrainer(task.model, args, privileged(task, behind=True), None, tokenizer, [ticks(recorder)])
    return watched(trainer, recorder, "_generate_transformers")


def sdpo(task: Task, tokenizer: Any, recorder: Recorder) -> Any:
    from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

    args = SDPOConfig(
        **common(task), **online(task), num_generations=task.shape.group, max_prompt_length=None,
        distillation_mode="full_logits", distillation_alpha=0.5, teacher_model_kind="base",
        include_environment_feedback=True, use_successful_as_teacher=False, reprompt_template="{feedback}",
        feedback_template="{feedback_raw}",
    )  # fmt: skip
    begun(task, recorder)
    trainer = SDPOTrainer(
        task.model, wrong, args, privileged(task), None, tokenizer, callbacks=[ticks(recorder)]
    )
    return watched(trainer, recorder, "_generate_transformers")


def wrong(completions: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def distillation(task: Task, tokenizer: Any, recorder: Recorder) -> Any:
    from trl import DistillationConfig, DistillationTrainer

    args = DistillationConfig(
        **common(task), **online(task), beta=0.5, teacher_model_init_kwargs={"dtype": dtype_of(task)}
    )
    begun(task, recorder)
    trainer = DistillationTrainer(
        task.model, task.teacher, args, plain(task), None, tokenizer, [ticks(recorder)]
    )
    trainer.eos_token_ids = [NO_STOP]
    recorder.wrap(trainer, "_generate_single_turn", "sampling")
    recorder.wrap(trainer, "compute_loss", "loss")
    made = trainer._generate_and_score_completions

    def noted(inputs: Any) -> Any:
        batch = made(inputs)
        read = trimmed(batch["prompt_ids"], batch["prompt_mask"])
        recorder.note(
            tokens=int(batch["completion_mask"].sum()), prompts=fingerprint(zip(read, read, strict=True))
        )
        return batch

    trainer._generate_and_score_completions = noted
    return trainer


def gkd(task: Task, tokenizer: Any, recorder: Recorder) -> Any:
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    args = GKDConfig(
        **common(task), lmbda=1.0, beta=0.5, max_new_tokens=task.shape.tokens, max_length=None,
        model_init_kwargs={"dtype": dtype_of(task)}, teacher_model_init_kwargs={"dtype": dtype_of(task)},
    )  # fmt: skip
    reply = {"role": "assistant", "content": ""}
    rows = [{"messages": [*row["prompt"], reply]} for row in task.workload for _ in range(task.shape.group)]
    begun(task, recorder)
    trainer = GKDTrainer(
        task.model, task.teacher, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        callbacks=[ticks(recorder)],
    )  # fmt: skip
    trainer.generation_config.eos_token_id = trainer.generation_kwargs["eos_token_id"] = NO_STOP
    recorder.wrap(trainer, "compute_loss", "loss")
    made, seen = recorder.timed(trainer.generate_on_policy_outputs, "sampling"), []

    def noted(model: Any, inputs: Any, config: Any) -> Any:
        ids, mask, labels = made(model, inputs, config)
        if len(seen) == task.shape.rows:
            seen.clear()
        width = inputs["prompts"].shape[1]
        read = trimmed(inputs["prompts"], inputs["prompt_attention_mask"])
        seen.extend((one, one, int(own.sum())) for one, own in zip(read, mask[:, width:], strict=True))
        recorder.note(tokens=sum(n for _, _, n in seen), prompts=fingerprint((a, b) for a, b, _ in seen))
        return ids, mask, labels

    trainer.generate_on_policy_outputs = noted
    return trainer


# --- what is watched ----------------------------------------------------------------------------------------------


def privileged(task: Task, *, behind: bool = False) -> Any:
    """Prompts with what the teacher reads instead; ``behind``: with what it reads behind the prompt. ValueError where
    that does not begin with the prompt."""
    from datasets import Dataset

    rows = []
    for row in task.workload:
        asked, shown = row["prompt"][-1]["content"], row["teacher"]
        if behind and not shown.startswith(asked):
            raise ValueError(f"TRL's SDFT shows the prompt first, which {shown!r} does not begin with")
        rows.append({"prompt": row["prompt"], "privileged_context": shown[len(asked) if behind else 0 :]})
    return Dataset.from_list(rows)


def plain(task: Task) -> Any:
    from datasets import Dataset

    rows = [{"prompt": row["prompt"]} for row in task.workload for _ in range(task.shape.group)]
    return Dataset.from_list(rows)


def ticks(recorder: Recorder) -> Any:
    """A step ends where the trainer says so; what it logs of it falls into the next one."""
    from transformers import TrainerCallback

    class Ticks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            recorder.tick()

        def on_self_distillation_batch_prepared(
            self,
            prompt_ids: Any,
            completion_ids: Any,
            teacher_input_ids: Any,
            teacher_attention_mask: Any,
            **_: Any,
        ) -> None:
            new = completion_ids.shape[1]
            shown = trimmed(teacher_input_ids[:, :-new], teacher_attention_mask[:, :-new])
            read = recorder.read
            recorder.note(
                tokens=int(teacher_attention_mask[:, -new:].sum()),
                prompts=fingerprint(zip(read, shown, strict=True)),
            )

    return Ticks()


def watched(trainer: Any, recorder: Recorder, sampling: str) -> Any:
    """A trainer of self-distillation: its sampling and its loss are timed, its prompts noted."""
    trainer.eos_token_ids = [NO_STOP]
    generate = recorder.timed(getattr(trainer, sampling), "sampling")

    def noted(prompt_ids: Any) -> Any:
        recorder.read = prompt_ids
        return generate(prompt_ids)

    setattr(trainer, sampling, noted)
    recorder.wrap(trainer, "compute_loss", "loss")
    return trainer


def trimmed(ids: Any, mask: Any) -> list[list[int]]:
    return [row[own.bool()].tolist() for row, own in zip(ids, mask, strict=True)]


def short(trainer: Any, task: Task, recorder: Recorder) -> None:
    """Short answers in the step before the timed ones; each step's loss noted."""
    config = trainer.generation_config
    config.max_new_tokens = task.warmup_tokens
    tick: Callable[[], None] = recorder.tick

    def ended() -> None:
        config.max_new_tokens = task.shape.tokens
        tick()

    recorder.tick = ended
    loss = trainer.compute_loss

    def summed(*args: Any, **kwargs: Any) -> Any:
        found = loss(*args, **kwargs)
        share = float((found[0] if isinstance(found, tuple) else found).detach())
        recorder.note(loss=recorder.noted.get("loss", 0.0) + share)
        return found

    trainer.compute_loss = summed
