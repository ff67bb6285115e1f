"""What no implementation can beat: bytes that must be read and products that must be made, at this machine's
rates."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Machine:
    """``bandwidth`` in bytes a second (of a matrix–vector product too large for any cache), ``flops`` in
    floating-point operations a second (of a large product), with the threads at hand."""

    bandwidth: float
    flops: float


@dataclass(frozen=True)
class Model:
    """``body``: numbers in the transformer's matrices; ``head``: vocabulary × width; ``cached``: bytes that a token
    leaves in the cache; ``attended``: operations that a token costs for every token that it looks back at."""

    body: int
    head: int
    cached: int
    attended: int
    itemsize: int = 4


@dataclass(frozen=True)
class Work:
    """A step: ``rows`` of ``prompt`` + ``tokens``, scored by ``teachers`` that read ``shown`` tokens first."""

    rows: int
    prompt: float
    shown: float
    tokens: int
    teachers: int = 1


def model_of(config: Any) -> Model:
    """Of a Llama- or Qwen-like config."""
    c = config.get_text_config()
    width, layers = c.hidden_size, c.num_hidden_layers
    size = getattr(c, "head_dim", None) or width // c.num_attention_heads
    queries, keys = c.num_attention_heads * size, c.num_key_value_heads * size
    layer = 2 * width * queries + 2 * width * keys + 3 * width * c.intermediate_size
    return Model(layers * layer, c.vocab_size * width, 2 * layers * keys * 4, 4 * layers * queries)


def bounds(model: Model, work: Work, machine: Machine) -> dict[str, float]:
    """Phase → least seconds. Decoding: every matrix and the cache are read once a token step, or its products made,
    whichever takes longer. "loss + backward": both heads' logits, the products back to the student's states and
    matrix, and twice the student's forward pass (without its head). Optimizer: AdamW reads four numbers a weight
    and writes three."""
    read = work.tokens * (model.body + model.head) * model.itemsize
    looked = work.tokens * (work.prompt + work.tokens / 2)
    decoded = work.rows * (2 * (model.body + model.head) * work.tokens + model.attended * looked)
    decoding = max((read + work.rows * looked * model.cached) / machine.bandwidth, decoded / machine.flops)
    student = scored(model, work.rows, work.prompt + work.tokens)
    teacher = work.teachers * scored(model, work.rows, work.shown + work.tokens)
    heads = 2 * model.head * work.rows * work.tokens * (3 + work.teachers)
    return {
        "sampling": decoding + scored(model, work.rows, work.prompt) / machine.flops,
        "teacher": teacher / machine.flops,
        "student": student / machine.flops,
        "loss + backward": (heads + 2 * student) / machine.flops,
        "optimizer": 7 * 4 * (model.body + model.head) / machine.bandwidth,
    }


def scored(model: Model, rows: int, length: float) -> float:
    """Operations of one forward pass without the head."""
    return rows * (2 * model.body * length + model.attended * length**2 / 2)


# --- the machine --------------------------------------------------------------------------------------------------


def measured(device: str = "cpu") -> Machine:
    """This machine's rates in float32, the best of a few tries: about two seconds."""
    bandwidth = read_rate(16_384, 8_192, device)
    square = torch.ones(2_048, 2_048, device=device)
    return Machine(bandwidth, 2 * 2_048**3 / best(lambda: square @ square, device))


def read_rate(rows: int, columns: int, device: str) -> float:
    """Bytes a second of a matrix–vector product."""
    matrix, vector = torch.ones(rows, columns, device=device), torch.ones(columns, device=device)
    return matrix.nbytes / best(lambda: matrix @ vector, device)


def best(work: Callable[[], Any], device: str, tries: int = 7) -> float:
    """Least seconds of a few calls; of one thread its processor time, which a busy machine troubles less."""
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter

    def once() -> float:
        began = clock()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - began

    once()
    return min(once() for _ in range(tries))
