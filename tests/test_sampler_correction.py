"""Truncated importance weights of what a sampler of its own arithmetic drew."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from runs import run_of
from selfteach.errors import UserError
from selfteach.objective.batch import STUDENT
from selfteach.objective.gate import GateProduct, ImportanceRatio, SamplerCorrection
from selfteach.objective.positions import Positions
from selfteach.objective.target import FromRole
from selfteach.objective.terms import NegativeLogLikelihood, OfColumns, PolicyGradient, Sampled, Term
from selfteach.policy.loading import LoraConfig, Policy, load_policy
from selfteach.policy.renderer import ChatRenderer
from selfteach.policy.room import room_of
from selfteach.roles.store import WeightStore
from selfteach.roles.weights import Frozen, Live
from selfteach.training.text.mismatch import COLUMN
from selfteach.training.text.update import corrected
from tiny import tiny_model, tiny_model_folder, tiny_tokenizer

LOGITS = torch.tensor([[0.5, -1.0, 2.0], [0.1, 0.2, -0.3], [1.0, 1.0, 1.0]], dtype=torch.float64)
IDS = torch.tensor([2, 0, 1])
TOKENIZER = tiny_tokenizer()
CHAT = ChatRenderer(TOKENIZER)


def positions(logits: Tensor = LOGITS, ids: Tensor = IDS) -> Positions:
    row = torch.zeros_like(ids)
    return Positions(ids, row, torch.arange(len(ids)), {STUDENT: logits}, shape=(1, len(ids)))


def test_the_factor_is_the_truncated_ratio_and_one_of_tokens_that_nobody_drew() -> None:
    own = LOGITS.log_softmax(-1).gather(1, IDS[:, None]).squeeze(1)
    behavior = torch.stack([own[0] - 0.1, own[1] - 2.0, torch.tensor(torch.nan).double()])[None]
    factor = SamplerCorrection(behavior, cap=2.0)(positions())
    torch.testing.assert_close(
        factor, torch.tensor([0.1, 0.0, 0.0]).double().exp() * torch.tensor([1, 2.0, 1])
    )


def test_it_is_at_the_temperature_of_the_draw() -> None:
    own = (LOGITS / 0.7).log_softmax(-1).gather(1, IDS[:, None]).squeeze(1)
    factor = SamplerCorrection(own[None], cap=2.0, temperature=0.7)(positions())
    torch.testing.assert_close(factor, torch.ones(3, dtype=torch.float64))


def test_once_the_weights_have_moved_it_stays_the_ratio_of_before() -> None:
    before = torch.tensor([[-1.0, -2.0, -3.0]]).double()
    behavior = torch.tensor([[-1.2, -1.5, torch.nan]]).double()
    factor = SamplerCorrection(behavior, cap=2.0, before=before)(positions())
    torch.testing.assert_close(factor, torch.tensor([0.2, -0.5, 0.0]).double().exp())


def test_without_truncation_the_mean_gradient_is_that_of_the_trained_policys_own_draws() -> None:
    """Σ_y μ(y) · [π(y)/μ(y)] · ∇log π(y) f(y) = Σ_y π(y) ∇log π(y) f(y), over the whole vocabulary."""
    logits = torch.tensor([[0.5, -1.0, 2.0, 0.0]]).double()
    drawn = (logits + torch.tensor([[0.3, -0.2, 0.1, 0.0]])).log_softmax(-1)[0]
    worth = torch.tensor([1.0, -2.0, 0.5, 3.0]).double()

    def mean_gradient(chance: Tensor, correction: bool) -> Tensor:
        total = torch.zeros_like(logits)
        for y in range(4):
            own = logits.clone().requires_grad_()
            at = positions(own, torch.tensor([y]))
            gate = SamplerCorrection(drawn[y].view(1, 1), cap=1e9)
            factor = gate(at).detach() if correction else 1.0
            (chance[y] * factor * worth[y] * at.sampled().sum()).backward()
            total += own.grad
        return total

    torch.testing.assert_close(
        mean_gradient(drawn.exp(), True), mean_gradient(logits.log_softmax(-1)[0].exp(), False)
    )


def test_gates_multiply_and_read_what_each_of_them_reads() -> None:
    first = SamplerCorrection(torch.zeros(1, 3).double(), cap=2.0)
    both = GateProduct((first, lambda at: at.row.double() + 3))
    torch.testing.assert_close(both(positions()), first(positions()) * 3)
    assert both.roles == (STUDENT,)


BEHAVIOR = torch.zeros(1, 3)
CORRECTION = SamplerCorrection(BEHAVIOR, 2.0)


@pytest.mark.parametrize(
    ("term", "is_corrected"),
    [
        (OfColumns(name="t", function=torch.add, columns={"other": 1.0}), True),
        (OfColumns(name="t", function=torch.add, columns={"behavior": torch.zeros(1, 3)}), False),
        (NegativeLogLikelihood(name="a"), True),
        (Sampled(name="a", target=FromRole("teacher"), gate=lambda at: at.row.double()), True),
        (Sampled(name="a", target=FromRole("teacher"), gate=ImportanceRatio(BEHAVIOR)), False),
        (PolicyGradient(name="a", advantage=torch.ones(1), behavior=BEHAVIOR, clip=(0.2, 0.2)), False),
        (PolicyGradient(name="a", advantage=torch.ones(1)), True),
        (NegativeLogLikelihood(name="a", role="other"), False),
    ],
)
def test_a_term_is_corrected_unless_its_own_ratio_does_it(term: Term, is_corrected: bool) -> None:
    found = corrected(term, CORRECTION)
    gates = found.gate.gates if isinstance(found.gate, GateProduct) else (found.gate,)
    assert (CORRECTION in gates) == is_corrected
    assert replace(found, gate=term.gate) == term


def store_of(dtype: torch.dtype | None) -> WeightStore:
    model = tiny_model(CHAT.vocabulary + 10)
    policy = Policy("tiny", model, TOKENIZER, CHAT, CHAT.vocabulary, room_of(model))
    return WeightStore({"policy": policy}, sampler_dtype=dtype)


def test_the_copy_to_sample_from_follows_the_trained_weights() -> None:
    store = store_of(torch.bfloat16)
    trained = store.trained["policy"].model
    for _ in range(2):
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.add_(torch.randn_like(parameter))
        with store.sampling(Live()) as policy:
            assert policy.model is not trained
            for own, other in zip(policy.model.parameters(), trained.parameters(), strict=True):
                assert own.dtype == torch.bfloat16
                torch.testing.assert_close(own, other.bfloat16())
    assert len(store.samplers) == 1


def test_without_a_dtype_of_its_own_the_sampler_uses_the_trained_module() -> None:
    store = store_of(None)
    with store.sampling(Live()) as policy:
        assert policy is store.trained["policy"]
    assert not store.samplers


def test_other_roles_sample_as_they_score() -> None:
    store = store_of(torch.bfloat16)
    store.enter([Frozen()])
    with store.sampling(Frozen()) as policy:
        assert next(policy.model.parameters()).dtype == torch.float32


def test_adapters_have_no_copy_of_their_own(tmp_path) -> None:
    policy = load_policy(str(tiny_model_folder(tmp_path)), lora=LoraConfig(rank=2))
    store = WeightStore({"policy": policy}, sampler_dtype=torch.bfloat16)
    with pytest.raises(UserError, match="precision bfloat16"), store.sampling(Live()):
        pass


def test_a_run_with_a_sampler_of_its_own_measures_and_weighs_the_mismatch(tiny: str) -> None:
    row = {}
    plain, own = run_of(tiny), run_of(tiny, "--sampler-dtype", "bfloat16")
    for run in (plain, own):
        row[run] = run.stepped()
    assert not [name for name in row[plain] if name.startswith("sampling/")]
    assert 0 < row[own]["sampling/logp_difference/mean"] < 0.05
    assert row[own]["sampling/logp_difference/mean"] <= row[own]["sampling/logp_difference/max"] < 0.5
    assert row[own]["sampling/importance_ratio/mean"] == pytest.approx(1, abs=0.05)
    assert row[own]["sampling/importance_ratio/capped"] == 0

    for run, expected in ((plain, lambda outcome: 1.0), (own, lambda outcome: outcome.token[COLUMN].exp())):
        (outcome,), (term,) = run.batch.outcomes, run.batch.weighted
        coefficient = outcome.layout.at(term.coefficients)
        weight = outcome.token[f"weight/{term.term.name}"]
        torch.testing.assert_close(weight, coefficient * expected(outcome), check_dtype=False)
    assert own.batch.outcomes[0].token[COLUMN].std() > 0


@pytest.mark.parametrize(
    "knobs",
    [
        ("--temperature", "0.5", "--loss-temperature", "1.0"),
        ("--lr", "0.05", "--minibatches", "2"),
        ("--lr", "0.05", "--update-epochs", "2", "--temperature", "0.5", "--loss-temperature", "1.5"),
        ("--lr", "0.05", "--minibatches", "2", "--update-epochs", "2", "--temperature", "0.5",
         "--loss-temperature", "1.5"),
    ],
)  # fmt: skip
def test_the_mismatch_is_that_of_the_sampler_alone(tiny: str, knobs: tuple[str, ...]) -> None:
    """Neither the temperature of the loss nor the updates of the batch before this one are the sampler's doing."""
    run = run_of(tiny, "--sampler-dtype", "bfloat16", *knobs)
    row = run.stepped()
    assert 0 < row["sampling/logp_difference/mean"] < 0.02
    assert row["sampling/importance_ratio/mean"] == pytest.approx(1, abs=0.02)


def test_what_others_wrote_is_not_weighed_by_the_sampler(tiny: str) -> None:
    """The teacher's own log-probs of its answers say nothing of the sampler's arithmetic."""
    run = run_of(
        tiny, "--sampler-dtype", "bfloat16", "--lmbda", "0", "--seq-kd", "--teacher", tiny, recipe="gkd"
    )
    row = run.stepped()
    assert not [name for name in row if name.startswith("sampling/")]
    (outcome,), (term,) = run.batch.outcomes, run.batch.weighted
    torch.testing.assert_close(
        outcome.token[f"weight/{term.term.name}"], outcome.layout.at(term.coefficients), check_dtype=False
    )


def test_stored_answers_are_trained_on_as_they_are(tiny: str) -> None:
    """They were drawn from other weights: what lies between is not the sampler's arithmetic, and no method's weight."""
    words = ("--sampler-dtype", "bfloat16", "--lr", "0.05")
    run = run_of(tiny, *words, "--stored", "4")
    for _ in range(2):
        row = run.stepped()
        assert not [name for name in row if name.startswith("sampling/")]
        (outcome,), (term,) = run.batch.outcomes, run.batch.weighted
        weight = outcome.token[f"weight/{term.term.name}"]
        torch.testing.assert_close(weight, outcome.layout.at(term.coefficients), check_dtype=False)
