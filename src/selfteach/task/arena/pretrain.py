"""Pretraining of a world's model, anew from a seed: half plain text, half text with a solution to read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfteach.task.arena import open_world
from selfteach.task.arena.arithmetic import Calculator, exact
from selfteach.task.arena.card import write_card
from selfteach.task.arena.measure import accuracy_table
from selfteach.task.arena.tokenizer import build_tokenizer, encode
from selfteach.task.arena.world import World, in_own_style
from selfteach.task.example import Message

STEPS = 600
BATCH = 128
MATRIX_LEARNING_RATE = 0.02
OTHER_LEARNING_RATE = 3e-3
HINTED_SHARE = 0.5
SLIP_RATE = 0.02
NOT_IN_THE_LOSS = -100

Progress = Callable[[int, int, float], None]


def careless(rng: Random) -> Calculator:
    """A writer of plain text: slips now and then, and has no idea what ``@`` means."""

    def calculate(left: int, operation: str, right: int) -> int:
        guess = operation == "@" or rng.random() < SLIP_RATE
        return rng.randrange(10) if guess else exact(left, operation, right)

    return calculate


def document(world: World, rng: Random) -> list[Message]:
    """One conversation of the pretraining text; its problem is never a held-out one."""
    problem = world.draw(rng)
    if rng.random() < HINTED_SHARE:
        example = world.example(problem)
        question, answer = world.question(example, "solution"), example.private["worked"]
    else:
        steps = world.work(problem, careless(rng))
        question, answer = problem, in_own_style(steps, world.final(steps))
    return [Message(role="user", content=question), Message(role="assistant", content=answer)]


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Llama's architecture with 0.34 M parameters; heads of size 32, the least that serving engines take."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=3,
            num_key_value_heads=3,
            head_dim=32,
            max_position_embeddings=512,
            initializer_range=0.1,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def pretrain(world: World, seed: int, steps: int, progress: Progress | None) -> LlamaForCausalLM:
    """Train a new model on ``steps`` batches of documents; the loss (nats a token) is on the answers alone.

    The same seed and number of threads give the same weights.
    """
    tokenizer, rng = build_tokenizer(), Random(f"{world.name} pretraining {seed}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = new_model(tokenizer)
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers: list[Optimizer] = [
        Muon(hidden, lr=MATRIX_LEARNING_RATE, weight_decay=0.01),
        AdamW(others, lr=OTHER_LEARNING_RATE, betas=(0.9, 0.98)),
    ]
    schedules = [CosineAnnealingLR(o, steps) for o in optimizers]
    for step in range(steps):
        documents = [document(world, rng) for _ in range(BATCH)]
        batch = encode(tokenizer, documents, return_assistant_tokens_mask=True)
        labels = batch["input_ids"].where(batch["assistant_masks"].bool(), NOT_IN_THE_LOSS)
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=NOT_IN_THE_LOSS
        )
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if progress:
            progress(step + 1, steps, loss.item())
    return model.eval()


def rebuild(
    world: str, folder: Path, seed: int = 0, steps: int | None = None, progress: Progress | None = None
) -> None:
    """Pretrain a world's model anew; write it, its tokenizer, sampling defaults and card to ``folder``.

    ``progress`` is called after each step with its number, their total and the loss in nats a token.
    """
    began = time.perf_counter()
    steps = STEPS if steps is None else steps
    arena, tokenizer = open_world(world), build_tokenizer()
    model = pretrain(arena, seed, steps, progress)
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
    write_card(folder, arena, model.num_parameters(), seed, steps, minutes, accuracy_table(arena, folder))
