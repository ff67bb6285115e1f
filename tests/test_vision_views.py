"""Transformations of images, the order of batches, and digits drawn by rule."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from selfteach.errors import UserError
from selfteach.task.arrays import load_arrays
from selfteach.task.glyphs import POINTS, SIZE, STROKES, evenly, glyphs, glyphs_color, inked
from selfteach.training.vision.batches import rows_of_step
from selfteach.training.vision.views import jittered, transformations, views_of

COUNTS = {
    "rotation4": 4,
    "rotation2": 2,
    "color6": 6,
    "color3": 3,
    "rotation4-color3": 12,
    "rotation4-color6": 24,
}


def random_images(n: int = 2, channels: int = 3, size: int = 8) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_transformations_are_as_many_as_they_say_all_different_and_begin_with_none(
    name: str, count: int
) -> None:
    images = random_images()
    views = views_of(images, transformations(name, 3, 8, 8))
    assert views.shape == (2, count, 3, 8, 8)
    assert torch.equal(views[:, 0], images)
    assert not any(torch.equal(views[0, i], views[0, j]) for i, j in combinations(range(count), 2))
    assert torch.equal(views.flatten(2).sort(-1).values[:, 0], views.flatten(2).sort(-1).values[:, -1])


def test_rotations_are_counter_clockwise_quarters() -> None:
    image = torch.zeros(1, 1, 3, 3)
    image[0, 0, 0, 2] = 1  # above right
    corners = [one(image)[0, 0].nonzero()[0].tolist() for one in transformations("rotation4", 1, 3, 3)]
    assert corners == [[0, 2], [0, 0], [2, 0], [2, 2]]
    assert torch.equal(transformations("rotation2", 1, 3, 3)[1](image), image.flip(2, 3))


def test_a_composition_is_a_rotation_and_then_a_permutation_of_colors() -> None:
    images = random_images()
    both = transformations("rotation4-color3", 3, 8, 8)
    turned, permuted = transformations("rotation4", 3, 8, 8), transformations("color3", 3, 8, 8)
    for j, one in enumerate(both):
        assert torch.equal(one(images), permuted[j % 3](turned[j // 3](images)))


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("color6", (1, 8, 8), "take rotation4"),
        ("rotation4-color3", (1, 8, 8), "have 1"),
        ("rotation4", (1, 8, 10), "8 × 10 pixels: take rotation2"),
        ("rotation4-color6", (3, 8, 10), "take rotation2"),
    ],
)
def test_images_that_cannot_be_transformed_are_refused(
    name: str, shape: tuple[int, int, int], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        transformations(name, *shape)


def test_half_turns_leave_oblong_images_their_shape() -> None:
    images = torch.rand(2, 1, 8, 10)
    assert views_of(images, transformations("rotation2", 1, 8, 10)).shape == (2, 2, 1, 8, 10)


def test_shifts_move_each_image_as_a_whole_by_all_amounts() -> None:
    torch.manual_seed(0)
    image = torch.zeros(400, 2, 9, 9)
    image[:, :, 4, 4] = torch.tensor([1.0, 2.0])
    moved = jittered(image, padding=2, flip=False)
    assert torch.equal(moved.sum((2, 3)), image.sum((2, 3)))
    places = {tuple(one[0].nonzero()[0].tolist()) for one in moved}
    assert places == {(y, x) for y in range(2, 7) for x in range(2, 7)}
    assert all(torch.equal(one[0] * 2, one[1]) for one in moved)


def test_about_half_of_the_images_are_mirrored() -> None:
    torch.manual_seed(0)
    images = random_images(400, 1, 4)
    mirrored = (jittered(images, padding=0, flip=True) == images.flip(3)).flatten(1).all(1)
    kept = (jittered(images, padding=0, flip=False) == images).flatten(1).all(1)
    assert 0.42 < mirrored.double().mean() < 0.58
    assert kept.all()


@pytest.mark.parametrize(("count", "size"), [(10, 4), (10, 10), (7, 3), (5, 12), (1, 3)])
def test_every_row_is_seen_once_an_epoch_in_an_order_of_its_own(count: int, size: int) -> None:
    steps = 4 * count
    sequence = torch.cat([rows_of_step(count, size, step, seed=3) for step in range(steps)])
    assert len(sequence) == steps * size
    epochs = sequence.reshape(-1, count)
    assert torch.equal(epochs.sort(1).values, torch.arange(count).expand_as(epochs))
    if count > 4:
        assert len(epochs.unique(dim=0)) > len(epochs) / 2
        other = torch.cat([rows_of_step(count, size, step, seed=4) for step in range(steps)])
        assert not torch.equal(sequence, other)


# --- digits drawn by rule -----------------------------------------------------------------------------------------


def test_points_of_a_stroke_lie_at_equal_distances_and_begin_and_end_it() -> None:
    found = evenly([(0.0, 0.0), (3.0, 0.0), (3.0, 1.0)])
    assert found.shape == (POINTS, 2)
    assert found[0].tolist() == [0, 0]
    assert found[-1].tolist() == [3, 1]
    along = np.abs(np.diff(found, axis=0)).sum(1)
    assert np.median(along) == pytest.approx(4 / (POINTS - 1))


def test_a_nine_is_a_six_turned_by_half() -> None:
    six, nine = (inked(evenly(STROKES[digit])[None], np.array([0.05])) for digit in (6, 9))
    np.testing.assert_allclose(nine, six[:, ::-1, ::-1], atol=1e-4)
    assert not np.allclose(nine, six, atol=0.1)


def test_ink_lies_within_half_a_width_of_the_line() -> None:
    line = np.array([[[0.25, 0.5], [0.75, 0.5]]])
    ink = inked(line, np.array([0.1]))[0]
    axis = (np.arange(SIZE) + 0.5) / SIZE
    x, y = np.meshgrid(axis, axis)
    far = np.hypot(np.maximum(np.abs(x - 0.5) - 0.25, 0), y - 0.5)
    assert (ink[far < 0.1 - 0.5 / SIZE] == 1).all()
    assert (ink[far > 0.1 + 0.5 / SIZE] == 0).all()
    np.testing.assert_allclose(ink, ((0.1 - far) * SIZE + 0.5).clip(0, 1), atol=1e-3)


@pytest.mark.parametrize(("make", "channels"), [(glyphs, 1), (glyphs_color, 3)])
def test_drawn_digits_are_the_seeds_and_lie_in_0_to_1(make: object, channels: int) -> None:
    assert callable(make)
    (x, y), (again, _), (other, _) = make(40, 5), make(40, 5), make(40, 6)
    assert x.shape == (40, channels, SIZE, SIZE)
    assert set(y) <= set(range(10))
    assert (x == again).all()
    assert (x != other).any()
    assert x.min() >= 0
    assert x.max() <= 1


def test_drawn_digits_are_split_three_ways_and_have_a_name() -> None:
    found = load_arrays("glyphs", seed=1)
    assert [len(part) for part in (found.train, found.valid, found.test)] == [1000, 400, 600]
    assert found.classes == 10
    assert np.bincount(found.train.y).min() > 60


def test_a_color_is_told_from_another() -> None:
    """Permuted channels are another distribution: strokes are warm, the ground is cool."""
    x, _ = glyphs_color(200, 0, noise=0.0)
    red, green, blue = x.mean((0, 2, 3))
    assert blue > green > red
