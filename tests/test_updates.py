"""Several updates of one batch: which rows each sees, and the loop of PPO."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from arrays import arrays
from selfteach.objective.columns import Columns
from selfteach.objective.minibatch import Minibatch, passes, rows_within, units
from selfteach.recipes import recipe_named, with_knobs
from selfteach.testing import evaluate, evaluate_outputs


def columns_of(
    group: list[int], trajectory: list[int] | None = None, pair: list[int] | None = None
) -> Columns:
    n = len(group)
    as_tensor = lambda values: None if values is None else torch.tensor(values)  # noqa: E731
    return Columns(
        torch.zeros(n, 2, dtype=torch.long), torch.ones(n, 2, dtype=torch.bool),
        group=torch.tensor(group, dtype=torch.long), trajectory=as_tensor(trajectory), pair=as_tensor(pair),
    )  # fmt: skip


def test_the_parts_of_an_epoch_are_disjoint_and_cover_the_batch_and_epochs_differ() -> None:
    columns = columns_of(list(range(12)))
    epochs = []
    for epoch in range(2):
        parts = [rows_within(Minibatch(part, 3, epoch), columns, seed=5) for part in range(3)]
        assert torch.equal(sum(part.int() for part in parts), torch.ones(12, dtype=torch.int))
        assert [int(part.sum()) for part in parts] == [4, 4, 4]
        epochs.append(torch.stack(parts))
    assert not torch.equal(*epochs)
    assert torch.equal(
        rows_within(Minibatch(1, 3), columns, seed=5), rows_within(Minibatch(1, 3), columns, seed=5)
    )


def test_groups_pairs_and_trajectories_stay_whole() -> None:
    columns = columns_of([0, 0, 1, 2, 3, 4], trajectory=[0, 1, 2, 2, 3, 4], pair=[-1, -1, -1, -1, 5, -1])
    assert units(columns).tolist() == [0, 0, 1, 1, 2, 2]
    for part in range(3):
        rows = rows_within(Minibatch(part, 3), columns).view(3, 2)
        assert torch.equal(rows[:, 0], rows[:, 1])


@pytest.mark.parametrize("seed", range(5))
def test_chains_of_links_end_in_one_unit(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(30)
    pair = np.full(30, -1)
    pair[order[:-1]] = order[1:]  # a chain through all rows, in any order
    assert units(columns_of(list(range(30)), pair=pair.tolist())).tolist() == [0] * 30


def test_an_empty_batch_has_no_units() -> None:
    assert rows_within(Minibatch(0, 2), columns_of([])).shape == (0,)


@pytest.mark.parametrize("name", ["opsd", "sdpo", "srpo", "cepo", "scope", "grpo", "sft"])
def test_the_minibatches_of_an_epoch_see_each_row_once_and_divide_by_their_own(name: str) -> None:
    recipe = with_knobs(recipe_named(name), {"minibatches": 2})
    given = arrays(teachers=tuple(recipe.teachers))
    whole = evaluate(with_knobs(recipe, {"minibatches": 1}), given)
    parts = [evaluate(recipe, given, update=update) for update in range(2)]
    touched = [np.abs(part["grad"]).sum((1, 2)) > 0 for part in parts]
    assert not (touched[0] & touched[1]).any()
    assert ((np.abs(whole["grad"]).sum((1, 2)) > 0) <= (touched[0] | touched[1])).all()
    with pytest.raises(ValueError, match="no update 2"):
        evaluate(recipe, given, update=2)


def test_passes_name_every_update_in_turn() -> None:
    assert [(one.epoch, one.part) for one in passes(2, 3)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    with pytest.raises(ValueError, match="part"):
        Minibatch(2, 2)


@dataclass(frozen=True)
class Gan:
    """A toy pair of losses with opposite signs."""

    weight: float = 1.0

    def losses(self, outputs: dict[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        gap = outputs["D(real)"].mean() - outputs["D(fake)"].mean()
        return {"discriminator": -self.weight * gap, "generator": -outputs["D(fake)"].mean() + step}


def test_a_recipe_of_outputs_gives_each_optimizers_loss_and_gradient() -> None:
    given = {"D(real)": np.array([1.0, 3.0]), "D(fake)": np.array([0.5, 0.5])}
    out = evaluate_outputs(Gan(), given, step=2, overrides={"weight": 2.0})
    assert out["losses"] == {"discriminator": -3.0, "generator": 1.5}
    assert out["grads"]["discriminator"]["D(real)"].tolist() == [-1.0, -1.0]
    assert out["grads"]["generator"].keys() == {"D(fake)"}
    with pytest.raises(ValueError, match="discriminator"):
        evaluate_outputs(Gan(), {**given, "D(real)": np.array([np.nan, 1.0])})
