"""Pretraining of a shipped model, anew from a seed, on its own curriculum of lessons."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfteach.task.arena import named_model
from selfteach.task.arena.card import write_card
from selfteach.task.arena.curriculum import CURRICULA, Size
from selfteach.task.arena.lesson import Lesson
from selfteach.task.arena.measure import accuracy_table
from selfteach.task.arena.tokenizer import build_tokenizer, encode

BATCH = 128
MATRIX_LEARNING_RATE = 0.02
OTHER_LEARNING_RATE = 3e-3
NOT_IN_THE_LOSS = -100

Progress = Callable[[int, int, float], None]


def new_model(tokenizer: PreTrainedTokenizerFast, size: Size) -> LlamaForCausalLM:
    """Llama's architecture; 0.34 M parameters in the smaller size."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.hidden,
            intermediate_size=8 * size.hidden // 3,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            head_dim=32,
            max_position_embeddings=512,
            initializer_range=0.1,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def learnable(
    tokenizer: PreTrainedTokenizerFast, lessons: list[Lesson]
) -> tuple[dict[str, Int[Tensor, "N T"]], Int[Tensor, "N T"]]:
    """Model inputs [N, T] and labels [N, T]: the answers and their end marks, nothing that was given."""
    batch = encode(tokenizer, [lesson.messages for lesson in lessons], return_assistant_tokens_mask=True)
    turn = batch["assistant_masks"]
    given = torch.tensor([[len(lesson.given)] for lesson in lessons])
    labels = batch["input_ids"].where(turn.bool() & (turn.cumsum(1) > given), NOT_IN_THE_LOSS)
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}, labels


def pretrain(name: str, seed: int, steps: int, progress: Progress | None) -> LlamaForCausalLM:
    """Train a new model on ``steps`` batches of lessons; the loss (nats a token) is on the answers alone.

    The same seed and number of threads give the same weights.
    """
    curriculum, tokenizer = CURRICULA[name], build_tokenizer()
    rng = Random(f"{name} pretraining {seed}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = new_model(tokenizer, curriculum.size)
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers: list[Optimizer] = [
        Muon(hidden, lr=MATRIX_LEARNING_RATE, weight_decay=0.01),
        AdamW(others, lr=OTHER_LEARNING_RATE, betas=(0.9, 0.98)),
    ]
    schedules = [CosineAnnealingLR(o, steps) for o in optimizers]
    for step in range(steps):
        lessons = [curriculum.writer(rng) for _ in range(BATCH)]
        model.zero_grad()
        loss = backward(model, tokenizer, lessons, curriculum.pieces)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if progress:
            progress(step + 1, steps, loss)
    model.eval()
    return model


def backward(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, lessons: list[Lesson], pieces: int
) -> float:
    """Gradients of the mean loss over all learnable tokens, read in ``pieces``; gives that loss, nats a token."""
    if pieces > 1:
        lessons = sorted(lessons, key=lambda lesson: sum(len(m["content"]) for m in lesson.messages))
    size = -(-len(lessons) // pieces)
    tokens = sum(lesson.learned for lesson in lessons)
    total = 0.0
    for begin in range(0, len(lessons), size):
        inputs, labels = learnable(tokenizer, lessons[begin : begin + size])
        logits = model(**inputs).logits
        loss = cross_entropy(
            logits[:, :-1].flatten(0, 1),
            labels[:, 1:].flatten(),
            ignore_index=NOT_IN_THE_LOSS,
            reduction="sum",
        )
        (loss / tokens).backward()
        total += loss.item()
    return total / tokens


def rebuild(
    name: str, folder: Path, seed: int = 0, steps: int | None = None, progress: Progress | None = None
) -> None:
    """Pretrain a shipped model anew; write it, its tokenizer, sampling defaults and card to ``folder``.

    ``progress`` is called after each step with its number, their total and the loss in nats a token. Raises
    UserError if no model has that name.
    """
    began = time.perf_counter()
    curriculum = CURRICULA[named_model(name)]
    steps = curriculum.steps if steps is None else steps
    tokenizer = build_tokenizer()
    model = pretrain(name, seed, steps, progress)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=48,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    minutes = (time.perf_counter() - began) / 60
    write_card(folder, name, model.num_parameters(), seed, steps, minutes, accuracy_table(name, folder))
