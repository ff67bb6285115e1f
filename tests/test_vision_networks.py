"""Networks that see, and probes of their features."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from selfteach.errors import UserError
from selfteach.training.randomness import seeded
from selfteach.training.vision.networks import ResNet, backbone
from selfteach.training.vision.probes import features_of, knn_accuracy, linear_probe_accuracy


@pytest.mark.parametrize(("name", "weights"), [("resnet20", 269_722), ("resnet32", 464_154)])
def test_a_resnet_has_as_many_weights_as_the_known_one_of_its_depth(name: str, weights: int) -> None:
    """0.27 M and 0.46 M (arXiv 1512.03385, table 6), with a head for ten classes."""
    body = backbone(name, 3)
    head = nn.Linear(body.features, 10)
    assert sum(one.numel() for module in (body, head) for one in module.parameters()) == weights


@pytest.mark.parametrize("name", ["cnn", "resnet20"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 28)])
def test_a_backbone_gives_the_features_that_it_names(name: str, channels: int, size: int) -> None:
    body = backbone(name, channels, width=4)
    assert body(torch.rand(2, channels, size, size)).shape == (2, body.features)


def test_a_resnet_of_no_such_depth_is_refused() -> None:
    with pytest.raises(UserError, match=r"6 k \+ 2"):
        ResNet(3, depth=30)


def test_initial_weights_are_the_seeds_and_nothing_else_is_drawn() -> None:
    before = torch.get_rng_state()

    def made(seed: int) -> torch.Tensor:
        with seeded(seed):
            return torch.cat([one.flatten() for one in backbone("cnn", 1, 4).parameters()])

    assert torch.equal(made(3), made(3))
    assert not torch.equal(made(3), made(4))
    assert torch.equal(before, torch.get_rng_state())


def clusters(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes on rays from the origin, far apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    return torch.eye(3)[labels] * 4 + torch.randn(n, 3, generator=generator) * 0.1, labels


def test_probes_name_what_is_apart_and_guess_what_is_not() -> None:
    (x, y), (z, t) = clusters(60, 0), clusters(90, 1)
    shuffled = torch.randn(90, 3, generator=torch.Generator().manual_seed(2))
    for probe in (linear_probe_accuracy, knn_accuracy):
        assert probe(x, y, z, t, 3) == 1
        assert probe(x, y, shuffled, t, 3) < 0.6


def test_scale_and_shift_of_features_change_nothing_of_the_linear_probe() -> None:
    torch.manual_seed(0)
    (x, y), (z, t) = clusters(60, 0), clusters(200, 1)
    noisy, asked = x + torch.randn_like(x) * 2, z + torch.randn_like(z) * 2
    plain = linear_probe_accuracy(noisy, y, asked, t, 3)
    assert 0.5 < plain < 1
    assert linear_probe_accuracy(noisy * 100 - 7, y, asked * 100 - 7, t, 3) == plain


def test_neighbors_are_found_by_direction_and_ties_go_to_the_smallest_label() -> None:
    train, labels = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([1, 0])
    assert knn_accuracy(train, labels, torch.tensor([[9.0, 1]]), torch.tensor([1]), 2, neighbors=1) == 1
    assert knn_accuracy(train, labels, torch.tensor([[9.0, 1]]), torch.tensor([0]), 2, neighbors=5) == 1


def test_features_are_of_the_whole_and_leave_the_mode() -> None:
    network = backbone("cnn", 1, 4)
    images = torch.rand(7, 1, 8, 8)
    assert torch.equal(features_of(network, images, 3), features_of(network, images, 3))
    assert network.training
    torch.testing.assert_close(features_of(network, images, 3), network.eval()(images).detach())
