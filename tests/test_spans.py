"""Spans of written tokens: capped marks, and random ones."""

from __future__ import annotations

import pytest
import torch

from selfteach.objective.spans import capped, row_top, scattered

MASK = torch.arange(40) < torch.tensor([40, 23, 8, 3, 0]).unsqueeze(1)


def test_a_cap_keeps_the_first_marked_tokens_up_to_the_share_of_what_was_written() -> None:
    marked = torch.zeros_like(MASK)
    marked[0, 3:6] = True
    marked[1, 10:20] = True
    marked[2] = marked[3] = True
    kept = capped(marked, MASK, 0.25)
    assert kept[0].nonzero().squeeze(1).tolist() == [3, 4, 5]
    assert kept[1].nonzero().squeeze(1).tolist() == [10, 11, 12, 13, 14]
    assert kept[2].nonzero().squeeze(1).tolist() == [0, 1]
    assert not kept[3:].any()


def test_a_cap_of_one_keeps_every_written_mark_and_nothing_else() -> None:
    marked = torch.rand(MASK.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(capped(marked, MASK, 1.0), marked & MASK)


def test_a_share_loses_no_token_to_rounding() -> None:
    hundred = torch.ones(1, 100, dtype=torch.bool)
    assert capped(hundred, hundred, 0.29).sum() == scattered(hundred, 0.29, 0).sum() == 29


def test_scattered_tokens_are_written_ones_and_as_many_as_the_share_allows() -> None:
    chosen = scattered(MASK, 0.25, seed=3)
    assert chosen.sum(dim=1).tolist() == [10, 5, 2, 0, 0]
    assert not (chosen & ~MASK).any()


def test_scattered_tokens_differ_by_seed_and_not_by_padding() -> None:
    wide = torch.cat([MASK, torch.zeros(len(MASK), 7, dtype=torch.bool)], dim=1)
    assert torch.equal(scattered(wide, 0.25, 3)[:, :40], scattered(MASK, 0.25, 3))
    assert not torch.equal(scattered(MASK, 0.25, 4), scattered(MASK, 0.25, 3))


def test_scattered_tokens_fall_everywhere_alike() -> None:
    often = sum(scattered(MASK[:1], 0.25, seed).double() for seed in range(400))
    torch.testing.assert_close(often / 400, torch.full((1, 40), 0.25).double(), atol=0.1, rtol=0)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_the_unit_interval_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        capped(MASK, MASK, share)
    with pytest.raises(ValueError, match="share"):
        scattered(MASK, share, 0)


def test_a_row_keeps_the_least_that_is_asked_for_and_an_empty_one_nothing() -> None:
    column = torch.rand(MASK.shape, generator=torch.Generator().manual_seed(5))
    assert row_top(column, MASK, 0.1).sum(dim=1).tolist() == [4, 2, 0, 0, 0]
    kept = row_top(column, MASK, 0.1, least=1)
    assert kept.sum(dim=1).tolist() == [4, 2, 1, 1, 0]
    assert int(column[2, :8].argmax()) == int(kept[2].long().argmax())
