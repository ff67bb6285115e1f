"""Door: two roles trained in one step with opposite stop-gradients; one set of weights under two contexts (card 12)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

import selfteach.objective as obj

ROWS, STEPS, VOCABULARY, WIDTH, ALPHA = 4, 5, 11, 6, 0.3
MASK = torch.arange(STEPS) < torch.tensor([[5], [2], [4], [1]])
COLUMNS = obj.Columns(torch.arange(ROWS * STEPS).reshape(ROWS, STEPS) % VOCABULARY, MASK)
# J_T = … − β KL(π_T ‖ sg π_S) trains the teacher, J_S = … − β KL(sg π_T ‖ π_S) the student.
UP = obj.Match(name="up", role="teacher", target=obj.FromRole("student"), divergence=obj.ReverseKL())
DOWN = obj.Match(name="down", target=obj.FromRole("teacher"), divergence=obj.ForwardKL())
TERMS = [replace(UP, coefficient=ALPHA), replace(DOWN, coefficient=1 - ALPHA)]


def by_hand(student: Tensor, teacher: Tensor) -> Tensor:
    """The pair of losses on full logits [N, T, V], left to autograd."""
    s, t = student.log_softmax(-1), teacher.log_softmax(-1)
    up, down = (t.exp() * (t - s.detach())).sum(-1), (t.detach().exp() * (t.detach() - s)).sum(-1)
    return ((ALPHA * up + (1 - ALPHA) * down) * MASK).sum() / MASK.sum()


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double().requires_grad_()


def test_each_role_is_trained_by_its_own_term_and_only_read_by_the_other() -> None:
    head = draw(VOCABULARY, WIDTH, seed=1)
    student, teacher = (draw(ROWS, STEPS, WIDTH, seed=seed) for seed in (2, 3))
    roles = {"student": obj.Scored(student, obj.Head(head)), "teacher": obj.Scored(teacher, obj.Head(head))}
    batch = obj.ScoredBatch.padded(COLUMNS, roles)
    ours = obj.evaluate_terms(batch, obj.plan(TERMS, COLUMNS), chunk_bytes=600).loss
    theirs = by_hand(student @ head.T, teacher @ head.T)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(x, [student, teacher, head]) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)
    down = obj.evaluate_terms(batch, obj.plan([DOWN], COLUMNS)).loss
    assert torch.autograd.grad(down, teacher, allow_unused=True) == (None,)


def test_the_same_weights_are_trained_under_two_contexts_at_once() -> None:
    torch.manual_seed(0)
    table, mix = nn.Embedding(VOCABULARY, WIDTH).double(), nn.Linear(2 * WIDTH, WIDTH).double()
    found = []
    for engine in (True, False):
        contexts = [torch.full((ROWS, STEPS), token) for token in (3, 7)]  # without and with the privilege
        states = [mix(torch.cat([table(COLUMNS.ids), table(c)], -1)).tanh() for c in contexts]
        scored = [obj.Scored(x, obj.Head(table.weight)) for x in states]
        loss = by_hand(*(x @ table.weight.T for x in states))
        if engine:
            batch = obj.ScoredBatch.padded(COLUMNS, {"student": scored[0], "teacher": scored[1]})
            loss = obj.evaluate_terms(batch, obj.plan(TERMS, COLUMNS)).loss
        found.append(torch.autograd.grad(loss, [table.weight, mix.weight, mix.bias]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
