"""What the engine holds at its peak, measured, against the loss on full logits."""

from __future__ import annotations

import subprocess
import sys

import pytest

MEASURE = """
import re, sys
import torch
from selfteach.objective import (
    Columns, ForwardKL, FromRole, Head, Match, Scored, ScoredBatch, evaluate_terms, plan
)

how, vocabulary, tokens, width = sys.argv[1], *map(int, sys.argv[2:])

def status(name):
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(name + r":\\s+(\\d+)", file.read())[1])

def random(*shape):
    return torch.empty(*shape).normal_(0, width**-0.25)

torch.set_num_threads(1)
hidden, weight = random(1, tokens, width).requires_grad_(), random(vocabulary, width).requires_grad_()
teacher, other = random(1, tokens, width), random(vocabulary, width)

def naive():
    logits = hidden[0] @ weight.T  # named, because a model's output stays alive while its loss is taken
    with torch.no_grad():
        teacher_logits = teacher[0] @ other.T
    student, target = logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    return torch.nn.functional.kl_div(student, target, log_target=True, reduction="sum") / tokens

def chunked():
    columns = Columns(
        ids=torch.zeros(1, tokens, dtype=torch.long), mask=torch.ones(1, tokens, dtype=torch.bool)
    )
    roles = {"student": Scored(hidden, Head(weight)), "teacher": Scored(teacher, Head(other))}
    batch = ScoredBatch.padded(columns, roles)
    term = Match(name="match", target=FromRole("teacher"), divergence=ForwardKL())
    return evaluate_terms(batch, plan([term], columns)).loss

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # forget the peak so far
before = status("VmRSS")
{"naive": naive, "chunked": chunked}[how]().backward()
print(status("VmHWM") - before)
"""


def peak_bytes(how: str, vocabulary: int, tokens: int, width: int) -> int:
    """Resident memory that forward and backward need beyond their inputs, gradients included, in a process."""
    numbers = [str(n) for n in (vocabulary, tokens, width)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, how, *numbers], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.slow
def test_the_peak_is_an_eighth_of_full_logits_at_a_vocabulary_of_152k() -> None:
    size = (151_936, 1024, 576)
    assert peak_bytes("chunked", *size) <= peak_bytes("naive", *size) / 8


def test_four_times_the_tokens_need_hardly_more_memory() -> None:
    few, many = (peak_bytes("chunked", 32_768, tokens, 64) for tokens in (1024, 4096))
    assert many < 1.5 * few
    assert many < 4096 * 32_768 * 4 / 2  # half of one matrix of logits
