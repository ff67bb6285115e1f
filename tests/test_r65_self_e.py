"""Card 65: the target of a jump, its judge, the sampler, and runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import selfteach
from cut import require_goes_on
from diffusing import QUIET, SMALL
from selfteach.errors import UserError
from selfteach.objective.flow import interpolated, velocity
from selfteach.recipes import with_knobs
from selfteach.recipes.r65_self_e import SelfE
from selfteach.task.worlds2d import Mixture, opposite
from selfteach.testing import evaluate_outputs
from selfteach.training.diffusion.sampling import jumps, sample, time_grid
from selfteach.training.diffusion.self_e import SelfELearner
from selfteach.training.trainer import Settings

N = 5
TINY = {
    **SMALL,
    "pretrain_steps": 0,
    "steps": 4,
    "batch_size": 16,
    "curriculum": 0,
    "warmup": 0,
    "guidance": 1.0,
}
FAKES = {"fake_from": 0, "classifier_share": 0.75}


def given(**arrays: Any) -> dict[str, Any]:
    """Outputs of five examples in two dimensions, all jumps; ``arrays`` replace them."""
    rng = np.random.default_rng(0)
    names = ("x_hat", "x0", "G_c", "G_null", "G_fake")
    made = dict(zip(names, rng.normal(size=(5, N, 2)), strict=True))
    t = np.linspace(0.3, 0.9, N)
    return {**made, "t": t, "s": t - 0.2, **arrays}


def evaluated(arrays: dict[str, Any], **knobs: Any) -> tuple[float, dict[str, np.ndarray]]:
    out = evaluate_outputs("self-e", arrays, overrides=knobs)
    return out["losses"]["network"], out["grads"]["network"]


def learner(**knobs: Any) -> SelfELearner:
    recipe = with_knobs(SelfE(), {**TINY, **knobs})
    made = SelfELearner(recipe, Settings(device="cpu"))
    made.roles(made.modules())
    return made


# --- the loss ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
def test_at_equal_times_it_is_flow_matching(normalize: bool) -> None:
    """1/t² |x̂ − x₀|² = |V − (ε − x₀)|², whatever the judges say."""
    rng = np.random.default_rng(1)
    x0, noise, v = (torch.from_numpy(one) for one in rng.normal(size=(3, N, 2)))
    t = torch.linspace(0.3, 0.95, N).double()
    x = interpolated(x0, noise, t)
    arrays = given(x0=x0.numpy(), x_hat=(x - t[:, None] * v).numpy(), t=t.numpy(), s=t.numpy())
    loss, grads = evaluated(arrays, normalize_target=normalize)
    expected = float((v - velocity(x0, noise)).square().sum(1).mean())
    assert loss == pytest.approx(expected, rel=1e-9)
    assert grads.keys() == {"x_hat"}


def test_the_target_has_the_datas_norm_and_the_direction_of_the_sum() -> None:
    """The gradient is 2/t² (x̂ − target)/n, which says what the target is."""
    arrays = given()
    t, s, x0 = arrays["t"][:, None], arrays["s"][:, None], arrays["x0"]
    _, grads = evaluated(arrays)
    target = arrays["x_hat"] - grads["x_hat"] * N * t**2 / 2
    np.testing.assert_allclose(np.linalg.norm(target, axis=1), np.linalg.norm(x0, axis=1))
    x_self = arrays["x_hat"] - (arrays["G_null"] - arrays["G_c"])
    ratio = t / (1 - t) - s / (1 - s)  # λ, as the difference of noise to signal
    total = x0 + ratio * x_self
    np.testing.assert_allclose(ratio, (t - s) / ((1 - t) * (1 - s)))
    np.testing.assert_allclose(
        target / np.linalg.norm(target, axis=1, keepdims=True),
        total / np.linalg.norm(total, axis=1, keepdims=True),
    )


def test_at_pure_noise_the_target_is_the_judges_alone() -> None:
    """λ is infinite at t = 1."""
    arrays = given(t=np.ones(N), s=np.full(N, 0.4))
    loss, grads = evaluated(arrays)
    x_self = arrays["x_hat"] - (arrays["G_null"] - arrays["G_c"])
    scale = np.linalg.norm(arrays["x0"], axis=1) / np.linalg.norm(x_self, axis=1)
    np.testing.assert_allclose(arrays["x_hat"] - grads["x_hat"] * N / 2, x_self * scale[:, None])
    assert math.isfinite(loss)


def test_the_self_term_pulls_by_the_difference_of_the_judges() -> None:
    """∂|x̂ − x_self|²/∂x̂ = 2 (G(∅) − G(c)); of fakes k and 1 − k."""
    arrays = given()
    t, s = arrays["t"][:, None], arrays["s"][:, None]
    ratio = (t - s) / ((1 - t) * (1 - s))
    judged = {}
    for name, knobs in (("plain", {}), ("fakes", FAKES)):
        _, grads = evaluated(arrays, normalize_target=False, **knobs)
        judged[name] = (grads["x_hat"] * N * t**2 / 2 - (arrays["x_hat"] - arrays["x0"])) / ratio
    null, c, fake = (arrays[f"G_{name}"] for name in ("null", "c", "fake"))
    np.testing.assert_allclose(judged["plain"], null - c)
    np.testing.assert_allclose(judged["fakes"], 0.75 * (null - c) + 0.25 * (fake - c))


def test_a_prompt_that_says_nothing_teaches_nothing() -> None:
    """c = ∅: x_self = x̂."""
    arrays = given(G_null=given()["G_c"])
    t = arrays["t"][:, None]
    _, grads = evaluated(arrays, normalize_target=False)
    np.testing.assert_allclose(grads["x_hat"], 2 * (arrays["x_hat"] - arrays["x0"]) / t**2 / N)


@pytest.mark.parametrize("knobs", [{"normalize_target": False}, {"normalize_target": False, **FAKES}])
def test_gradients_are_differences_where_nothing_of_the_target_moves(knobs: dict[str, Any]) -> None:
    """With x_self held where it is: the loss less what its own movement adds."""
    arrays = given(
        G_null=given()["G_c"], G_fake=given()["G_c"]
    )  # then x_self = x̂, whose square is 0 to first order
    _, grads = evaluated(arrays, **knobs)
    for name in grads:
        for place in ((0, 0), (N - 1, 1)):
            step = np.zeros((N, 2))
            step[place] = 1e-6
            up, down = (
                evaluated({**arrays, name: arrays[name] + sign * step}, **knobs)[0] for sign in (1, -1)
            )
            if name == "x_hat" and "fake_from" in knobs:
                # L_fake holds x̂ constant; its value moves with it all the same
                up, down = (one - fake_part(arrays, sign * step) for one, sign in ((up, 1), (down, -1)))
            assert grads[name][place] == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-7), name


def fake_part(arrays: dict[str, Any], step: np.ndarray) -> float:
    return float(((arrays["G_fake"] - arrays["x_hat"] - step) ** 2).sum(1).mean())


def test_fakes_are_learned_from_their_batch_on() -> None:
    arrays, knobs = given(), {"fake_from": 7}
    early, late = (evaluate_outputs("self-e", arrays, step, knobs) for step in (6, 7))
    assert "G_fake" not in early["grads"]["network"]
    np.testing.assert_allclose(
        late["grads"]["network"]["G_fake"], 2 * (arrays["G_fake"] - arrays["x_hat"]) / N
    )
    assert "G_c" not in late["grads"]["network"]


def test_the_judges_difference_is_a_classifiers_score() -> None:
    """Tweedie: G(∅) − G(c) = s²/(1 − s) (∇ log q(x_s) − ∇ log q(x_s | c)), with exact posterior means."""
    flat = opposite()
    world = Mixture(flat.means.double(), flat.weights.double(), 0.3)
    x, labels = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)).double(), torch.arange(8) % 4
    s = torch.linspace(0.1, 0.9, 8).double()
    difference = world.posterior_mean(x, s) - world.posterior_mean(x, s, labels)
    scale = (s.square() / (1 - s))[:, None]
    torch.testing.assert_close(difference, scale * (world.score(x, s) - world.score(x, s, labels)))


# --- a batch -----------------------------------------------------------------------------------------------------


def test_times_follow_their_schedule() -> None:
    made = learner(batch_size=4000, curriculum=10)
    torch.manual_seed(0)
    for step, tau in ((0, 0.0), (4, 0.4), (10, 1.0), (30, 1.0)):
        batch = made.collect(step)
        jumps = batch.s < batch.t
        assert (batch.s <= batch.t).all()
        if tau == 0:
            assert not jumps.any()
            continue
        assert float(jumps.float().mean()) == pytest.approx(0.5, abs=0.03)
        share = (batch.s / batch.t)[jumps]
        assert float(share.min()) == pytest.approx(1 - tau, abs=0.01)
        assert float(share.mean()) == pytest.approx(1 - tau / 2, abs=0.02)
    # a logistic normal, shifted by μ: its logit is normal again, about μ
    logit = (batch.t / (1 - batch.t)).log()
    assert float(logit.mean()) == pytest.approx(0.5, abs=0.06)
    assert float(logit.std()) == pytest.approx(1, abs=0.05)


def test_judges_stand_where_the_prediction_lands() -> None:
    """With the prompt the average, without it the network; nothing of them where there is no jump or no prompt."""
    made = learner(same_time=0.5, label_dropout=0.3, batch_size=64, **FAKES)
    assert made.average is not None
    for one in made.average.module.parameters():
        one.mul_(1.1)
    torch.manual_seed(0)
    batch = made.collect(0)
    outputs = made.outputs(batch)
    assert not outputs["G_null"].requires_grad
    assert not outputs["G_c"].requires_grad
    assert outputs["G_fake"].requires_grad
    jumps = batch.s < batch.t
    assert (outputs["G_c"][~jumps] == 0).all()
    bare = jumps & (batch.labels == made.network.null)
    assert bare.any()
    torch.testing.assert_close(outputs["G_c"][bare], outputs["G_null"][bare])
    own = jumps & ~bare
    landed = interpolated(outputs["x_hat"].detach(), batch.again, batch.s)[own]
    s, labels = batch.s[own], batch.labels[own]
    for name, network, told in (
        ("G_c", made.average.module, labels),
        ("G_null", made.network, torch.full_like(labels, 9)),
        ("G_fake", made.network, labels + 4),
    ):
        expected = landed - s[:, None] * network(landed, s, told)
        torch.testing.assert_close(outputs[name][own], expected)


def test_prompts_are_all_different() -> None:
    made = learner()
    labels = torch.tensor([0, 1, 2, 3, made.network.null])
    assert len({*labels.tolist(), *made.fake(labels).tolist()}) == 10
    assert made.network.label.num_embeddings == 10


# --- sampling ----------------------------------------------------------------------------------------------------


def test_a_sampler_that_lands_where_it_is_is_eulers() -> None:
    made = learner(landing="same")
    labels = torch.arange(6) % 4
    ours = made.generate(labels, 5, torch.Generator().manual_seed(3))
    noise = torch.randn(6, 2, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours, sample(made.network, noise, labels, time_grid(5)))
    jumping = learner(landing="next").generate(labels, 5, torch.Generator().manual_seed(3))
    x = noise
    with torch.no_grad():
        for t, s in jumps(time_grid(5), 6):
            x = x + (s - t)[:, None] * made.network(x, t, labels, s)
    torch.testing.assert_close(jumping, x)
    assert (jumping != ours).any()


def test_guidance_keeps_the_norm_of_the_prediction() -> None:
    plain, strong = learner(), learner(guidance=5.0)
    x, t, labels = torch.randn(6, 2), torch.full((6,), 0.7), torch.arange(6) % 4
    told, found = (one.predicted(x, t, t, labels) for one in (plain, strong))
    torch.testing.assert_close(found.norm(dim=1), told.norm(dim=1))
    none = plain.predicted(x, t, t, torch.full((6,), plain.network.null))
    direction = none + 5 * (told - none)
    torch.testing.assert_close(torch.cosine_similarity(found, direction), torch.ones(6))


# --- runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "total", "at"),
    [
        ({"fake_from": 2}, 4, 3),
        ({"pretrain_steps": 3}, 7, 2),
        ({"pretrain_steps": 3}, 7, 5),
        ({"data": "digits", "architecture": "unet"}, 4, 3),
    ],
)
def test_a_run_that_is_cut_goes_on_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: dict[str, Any], total: int, at: int
) -> None:
    knobs = {**TINY, "ema_decay": 0.9, **more}
    require_goes_on(SelfELearner, "self-e", tmp_path, monkeypatch, total=total, at=at, **knobs)


def test_it_learns_to_sample_in_one_step_what_flow_matching_cannot(tmp_path: Path) -> None:
    knobs = {
        "width": 32, "steps": 300, "curriculum": 100, "lr": 4e-3, "step_counts": (8,),
        "sampling_steps": 1, "eval_samples": 200,
    }  # fmt: skip
    ours = selfteach.train("self-e", out=tmp_path / "ours", **knobs, **QUIET)
    flow = selfteach.train("self-e", out=tmp_path / "flow", same_time=1.0, landing="same", **knobs, **QUIET)
    first = ours.curve("eval/headline")[0][1]
    assert ours.summary["eval/energy/1"] < 0.8 * flow.summary["eval/energy/1"]
    assert ours.summary["eval/energy/8"] < first / 4


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"label_dropout": 0.0}, "label_dropout"),
        ({"same_time": 1.5}, "same_time"),
        ({"data": "oposite"}, "opposite"),
        ({"data": "missing.npz"}, "is no file"),
        ({"task": "tutor"}, "has no task"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        selfteach.train("self-e", out=tmp_path / "run", **QUIET, **knobs)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_run_of_images_is_seen(tmp_path: Path) -> None:
    knobs = {**TINY, "data": "digits", "architecture": "unet", "sampling_steps": 1, "step_counts": (2,)}
    run = selfteach.train("self-e", out=tmp_path / "run", device="cpu", progress=None, **knobs)
    rows = (json.loads(line) for line in (run.folder / "samples.jsonl").read_text().splitlines())
    shown = [one for one in rows if one["phase"] == "after"]
    assert [one["key"] for one in shown] == ["held out", "1 step", "2 steps"]
    assert all((run.folder / one["path"]).read_bytes().startswith(b"\x89PNG") for one in shown)
    assert len({(run.folder / one["path"]).read_bytes() for one in shown}) == 3
    last = dict(run.curve("eval/recognized/1"))
    assert all(0 <= share <= 1 for share in last.values())
    assert "data:image/png" in run.report().read_text(encoding="utf-8")
