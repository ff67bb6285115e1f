"""Door: losses of whole strings (DPO, BCO, a softmax over candidates) against autograd, however a batch is split."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import selfteach.objective as obj

F = Callable[[Tensor, Tensor], Tensor]
ROWS, STEPS, VOCABULARY, BETA = 6, 5, 7, 0.3
MASK = torch.arange(STEPS) < torch.tensor([[5], [2], [4], [1], [3], [5]])
DRAW = torch.Generator().manual_seed(0)
COLUMNS = obj.Columns(torch.randint(VOCABULARY, (ROWS, STEPS), generator=DRAW), MASK, precision=torch.float64)
STUDENT, REFERENCE = torch.randn(2, ROWS, STEPS, VOCABULARY, generator=DRAW, dtype=torch.float64)
SPANS = torch.arange(2 * ROWS).reshape(ROWS, 2).repeat_interleave(torch.tensor([2, 3]), dim=1)  # two a row
SPANS[:, 3] = -1  # a token of none


def dpo(s: Tensor, ref: Tensor) -> Tensor:
    """Rows 0, 2, 4 are preferred to 1, 3, 5 (Rafailov et al. 2023)."""
    return -logsigmoid(BETA * ((s - ref)[0::2] - (s - ref)[1::2])).mean()


def bco(s: Tensor, ref: Tensor) -> Tensor:
    """Rewards β log π/π_ref against their mean δ, which carries no gradient: good rows up, bad ones down."""
    reward = BETA * (s - ref)
    centered = reward - reward.mean().detach()
    return -logsigmoid(centered[0::2]).mean() - logsigmoid(-centered[1::2]).mean()


def candidates(s: Tensor, ref: Tensor) -> Tensor:
    """KL(sg q* ‖ softmax of the strings' log-probs), q* from the other side (card 13): three candidates a node."""
    target, own = ref.reshape(-1, 3).softmax(-1), s.reshape(-1, 3).log_softmax(-1)
    return (target * (target.log() - own)).sum(-1).mean()


@pytest.mark.parametrize("split", [[ROWS], [1] * ROWS, [4, 2], [2, 1, 3]])
@pytest.mark.parametrize("unit", [torch.arange(ROWS), SPANS], ids=["rows", "spans"])
@pytest.mark.parametrize("function", [dpo, bco, candidates])
def test_value_and_gradient_are_autograds_for_any_split(function: F, unit: Tensor, split: list[int]) -> None:
    logits = STUDENT.clone().requires_grad_()
    roles = {"student": obj.Scored(logits), "reference": obj.Scored(REFERENCE)}
    stats = obj.Statistics.of(obj.ScoredBatch.padded(COLUMNS, roles))
    sums, ref = (stats.unit_sum(unit, role) for role in ("student", "reference"))
    term = obj.SequenceTerm(name="f", unit=unit, sums=sums, function=lambda s: function(s, ref))
    weighted, rows = obj.plan([term], COLUMNS), torch.arange(ROWS).split(split)
    batches = [obj.ScoredBatch.padded(COLUMNS, {"student": obj.Scored(logits[one])}, one) for one in rows]
    parts = [obj.evaluate_terms(batch, weighted) for batch in batches]
    places = (unit if unit.dim() == 2 else unit.unsqueeze(1).expand(ROWS, STEPS)).masked_fill(~MASK, -1)
    log_probs = logits.log_softmax(-1).gather(-1, COLUMNS.ids.unsqueeze(-1)).squeeze(-1)
    theirs = function(torch.stack([log_probs[places == u].sum() for u in range(len(sums))]), ref)
    ours = torch.stack([part.loss for part in parts]).sum()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(sum(part.terms["f"] for part in parts), theirs.detach())
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (ours, theirs)))
