"""Roles that hand over k tokens and a tail: equal to the full teacher wherever that is possible, refused elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from selfteach.objective import DIVERGENCES
from selfteach.objective.batch import Scored, ScoredBatch
from selfteach.objective.candidates import CandidateMatch
from selfteach.objective.columns import Columns
from selfteach.objective.divergence import JSD, ForwardKL, ReverseKL
from selfteach.objective.engine import evaluate_terms
from selfteach.objective.gate import At, Surer
from selfteach.objective.head import Head
from selfteach.objective.listed import Listed, listed_of
from selfteach.objective.plan import plan
from selfteach.objective.positions import Positions, Quantity, log_softmax
from selfteach.objective.record import measure
from selfteach.objective.sampled import k3
from selfteach.objective.statistics import Statistics
from selfteach.objective.support import Full, TopK
from selfteach.objective.target import FromRole, Likeliest, StudentMix
from selfteach.objective.terms import Match, Sampled, Term

ROWS, STEPS, VOCABULARY, WIDTH = 4, 6, 29, 5
LENGTHS = torch.tensor([6, 2, 4, 5])
K = 8


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def full(sharpness: float = 1.5) -> ScoredBatch:
    generator = torch.Generator().manual_seed(0)
    columns = Columns(
        ids=torch.randint(VOCABULARY, (ROWS, STEPS), generator=generator),
        mask=torch.arange(STEPS) < LENGTHS.unsqueeze(1),
        precision=torch.float64,
    )
    head = Head(random(VOCABULARY, WIDTH, seed=1).requires_grad_())
    roles = {
        "student": Scored(random(ROWS, STEPS, WIDTH, seed=2).requires_grad_(), head),
        "teacher": Scored(sharpness * random(ROWS, STEPS, VOCABULARY, seed=3)),
    }
    return ScoredBatch.padded(columns, roles)


def listed(batch: ScoredBatch, k: int = K) -> ScoredBatch:
    """The same batch whose teacher hands over k tokens and a tail."""
    log_probs = batch.roles["teacher"].states.log_softmax(-1)
    ids = batch.layout.at(batch.columns.ids)
    return replace(batch, roles={**batch.roles, "teacher": listed_of(log_probs, ids, k)})


def outcome(batch: ScoredBatch, term: Term, chunk_bytes: int | None = None) -> tuple[float, Tensor]:
    student = batch.roles["student"]
    (head,) = student.head.tensors
    found = evaluate_terms(batch, plan([term], batch.columns), chunk_bytes=chunk_bytes)
    gradients = torch.autograd.grad(found.loss, [student.states, head])
    return float(found.loss.detach()), torch.cat([one.flatten() for one in gradients])


def same(one: tuple[float, Tensor], other: tuple[float, Tensor]) -> None:
    assert one[0] == pytest.approx(other[0], abs=1e-12, rel=1e-12)
    torch.testing.assert_close(one[1], other[1], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("tail", ["bucket", "renormalize", "drop"])
@pytest.mark.parametrize("k", [1, 3, K])
@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_on_the_teachers_likeliest_tokens_it_is_the_full_teacher(name: str, k: int, tail: str) -> None:
    divergence = DIVERGENCES[name]()
    term = Match(
        name="match", target=FromRole("teacher"), divergence=divergence, support=TopK(k, "teacher", tail),
        temperature=1.0,
    )  # fmt: skip
    batch = full()
    expected = outcome(batch, term)
    assert expected[0] != 0 or k == 1
    same(outcome(listed(batch), term), expected)


@pytest.mark.parametrize("divergence", [ForwardKL(), ReverseKL(), JSD(0.3)])
@pytest.mark.parametrize(
    "support", [Full(), TopK(4, "student"), TopK(4, "union"), TopK(4, "intersection", "drop")]
)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_list_of_the_whole_vocabulary_is_the_full_teacher_whatever_is_read(
    divergence, support, temperature
) -> None:
    batch = full()
    term = Match(
        name="match",
        target=FromRole("teacher"),
        divergence=divergence,
        support=support,
        temperature=temperature,
    )
    same(outcome(listed(batch, VOCABULARY), term), outcome(batch, term))


@pytest.mark.parametrize(
    "term",
    [
        Sampled(name="sampled", target=FromRole("teacher"), temperature=1.0),
        Sampled(name="k3", target=FromRole("teacher"), function=k3, temperature=1.0),
        Sampled(name="vopd", target=FromRole("teacher"), control_variate=TopK(3), temperature=1.0),
        Sampled(name="mix", target=StudentMix("teacher", 0.5), temperature=1.0),
        Match(name="eopd", target=Likeliest("teacher", 5), divergence=ForwardKL(), temperature=1.0),
        Match(name="warm", target=FromRole("teacher"), divergence=ForwardKL(), support=TopK(2), temperature=1.3,
              target_temperature=1.0),
    ],
    ids=lambda term: term.name,
)  # fmt: skip
def test_what_reads_sampled_tokens_or_the_likeliest_is_exact(term: Term) -> None:
    batch = full()
    same(outcome(listed(batch), term), outcome(batch, term))


@pytest.mark.parametrize("chunk_bytes", [1, 700, 10**9])
def test_the_result_does_not_depend_on_the_chunks(chunk_bytes: int) -> None:
    batch = full()
    term = Match(name="m", target=FromRole("teacher"), divergence=JSD(0.5), support=TopK(4), temperature=1.0)
    same(outcome(listed(batch), term, chunk_bytes), outcome(batch, term))


def match(**more) -> Match:
    return Match(
        **{"name": "m", "target": FromRole("teacher"), "divergence": ReverseKL(), "temperature": 1.0, **more}
    )


def read_entropy(at: Positions) -> Tensor:
    return at.probs("teacher").max(-1).values


REFUSED: dict[str, tuple[Term, str]] = {
    "full": (
        match(),
        "term 'm': the whole distribution of 'teacher' is read, which hands over its 8 likeliest",
    ),
    "student": (match(support=TopK(4, "student")), "the whole distribution"),
    "union": (match(support=TopK(4, "union")), "the whole distribution"),
    "intersection": (match(support=TopK(4, "intersection")), "the whole distribution"),
    "more": (match(support=TopK(9)), "the top 9 of 'teacher' is read"),
    "more-likeliest": (match(target=Likeliest("teacher", 9)), "the top 9"),
    "mix": (match(target=StudentMix("teacher", 0.5), support=TopK(4)), "the whole distribution"),
    "temperature": (match(support=TopK(4), temperature=1.1), "at another temperature than 1"),
    "sampled-temperature": (
        Sampled(name="m", target=FromRole("teacher"), temperature=1.1),
        "at another temperature",
    ),
    "gate": (match(support=TopK(4), gate=Surer("teacher")), "the whole distribution"),
    "own-gate": (match(support=TopK(4), gate=At(read_entropy, ("teacher",))), "the whole distribution"),
    "candidates": (
        CandidateMatch(name="m", target=FromRole("teacher"), divergence=ReverseKL(), k=4, temperature=1.0),
        "the whole distribution",
    ),
    "baseline": (
        Sampled(name="m", target=FromRole("teacher"), control_variate=Full(), temperature=1.0),
        "the whole",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_read_the_made_up_tail_is_refused_in_one_line(case: str) -> None:
    term, said = REFUSED[case]
    with pytest.raises(ValueError, match=said) as refusal:
        outcome(listed(full()), term)
    assert "\n" not in str(refusal.value)
    assert "term 'm'" in str(refusal.value)


def test_statistics_and_measures_read_no_more_than_there_is() -> None:
    batch = full()
    stats, whole = Statistics.of(listed(batch)), Statistics.of(batch)
    torch.testing.assert_close(
        stats.log_prob("teacher"), whole.log_prob("teacher"), atol=1e-12, rtol=1e-12, equal_nan=True
    )
    near = [one.divergence("teacher", ForwardKL(), TopK(4)) for one in (stats, whole)]
    torch.testing.assert_close(*near, atol=1e-12, rtol=1e-12, equal_nan=True)
    with pytest.raises(ValueError, match="the entropy of 'teacher' is read"):
        stats.entropy("teacher")
    with pytest.raises(ValueError, match="the whole distribution of 'teacher'"):
        stats.divergence("teacher", ForwardKL())
    with pytest.raises(ValueError, match="the whole distribution"):
        measure(listed(batch), {"any": Quantity(read_entropy, ("teacher",))})


def test_hidden_states_are_refused() -> None:
    one = listed(full()).roles["teacher"]
    with pytest.raises(ValueError, match="hidden states"):
        replace(one, features=one.states)


def test_the_tail_is_taken_as_it_is_given_and_not_from_what_remains_of_one() -> None:
    """A teacher that is sure: 1 − Σ of its listed probabilities would be 0 or noise."""
    logits = torch.tensor([[60.0, 20.0, 1.0, 0.5, 0.0, -3.0]], dtype=torch.float64)
    exact = log_softmax(logits)
    one = listed_of(exact.float(), torch.tensor([5]), 2)
    made = one.log_probs(torch.tensor([5])).double()
    assert made[0, 2:].logsumexp(0) == pytest.approx(float(exact[0, 2:].logsumexp(0)), abs=1e-5)
    assert made[0, 5] == pytest.approx(float(exact[0, 5]), abs=1e-5)


def test_nothing_beside_the_list_and_nothing_beside_the_sampled_token() -> None:
    inf = math.inf
    sure = Listed.of(
        torch.tensor([[-0.7, -0.7]]), torch.tensor([[3, 1]]), torch.tensor([-inf]), torch.tensor([-0.7]), 5
    )
    assert sure.log_probs(torch.tensor([3])).exp().sum() == pytest.approx(1, abs=0.01)
    assert sure.log_probs(torch.tensor([3]))[0, 0] == -inf
    # All of the tail is the sampled token's; and the sampled token is the only one that is not listed.
    log_probs = torch.tensor([[0.7, 0.2, 0.1, 0.0, 0.0]], dtype=torch.float64).log()
    made = listed_of(log_probs, torch.tensor([2]), 2).log_probs(torch.tensor([2]))
    torch.testing.assert_close(made, log_probs)
    most = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    torch.testing.assert_close(listed_of(most, torch.tensor([2]), 2).log_probs(torch.tensor([2])), most)


def test_an_even_share_is_never_above_the_least_listed_token() -> None:
    flat = torch.full((1, 50), 1 / 50, dtype=torch.float64).log()
    one = listed_of(flat, torch.tensor([7]), 4)
    rounded = replace(one, states=one.states.half().double() - 0.002)
    made = rounded.log_probs(torch.tensor([7]))
    assert (made <= rounded.states.max() + 0.0021).all()
    others = made.scatter(-1, torch.cat([rounded.ids, torch.tensor([[7]])], -1), -math.inf)
    assert (others <= rounded.states.min()).all()


def test_numbers_from_outside_are_looked_at() -> None:
    good = {
        "log_probs": torch.tensor([[-2.0, -1.0]]), "ids": torch.tensor([[4, 0]]), "tail": torch.tensor([-1.5]),
        "sampled": torch.tensor([-2.0]), "vocabulary": 6,
    }  # fmt: skip
    one = Listed.of(**good)
    assert one.ids.tolist() == [[0, 4]]
    assert one.states.tolist() == [[-1, -2]]
    for change, said in (
        ({"log_probs": torch.tensor([[-2.0, math.nan]])}, "no NaN"),
        ({"tail": torch.tensor([math.nan])}, "no NaN"),
        ({"sampled": torch.tensor([0.5])}, "at most 0"),
        ({"ids": torch.tensor([[4, 4]])}, "twice"),
        ({"ids": torch.tensor([[4, 6]])}, r"\[0, 6\)"),
        ({"ids": torch.tensor([[-1, 2]])}, r"\[0, 6\)"),
        ({"vocabulary": 1, "ids": torch.tensor([[0, 0]])}, "twice"),
        ({"tail": torch.tensor([-1.5, -1.0])}, "must be"),
    ):
        with pytest.raises(ValueError, match=said):
            Listed.of(**{**good, **change})


def test_vocabularies_of_two_widths_are_refused() -> None:
    batch = listed(full())
    other = replace(batch.roles["teacher"], vocabulary=VOCABULARY + 1)
    with pytest.raises(ValueError, match="vocabulary widths differ"):
        outcome(replace(batch, roles={**batch.roles, "teacher": other}), match(support=TopK(4)))
