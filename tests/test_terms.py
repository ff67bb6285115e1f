"""Terms of the kit: features, entropies, sampled functions, strings; what they read, and what they refuse by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from selfteach.objective.batch import Scored, ScoredBatch
from selfteach.objective.columns import Columns
from selfteach.objective.divergence import ForwardKL, ReverseKL, SkewForwardKL, SkewReverseKL
from selfteach.objective.engine import Outcome, evaluate_terms
from selfteach.objective.gate import ImportanceRatio
from selfteach.objective.head import Head
from selfteach.objective.hidden import Hidden
from selfteach.objective.plan import plan
from selfteach.objective.positions import Positions
from selfteach.objective.sampled import k2, k3
from selfteach.objective.sequence import SequenceTerm
from selfteach.objective.support import Full, Support, TopK
from selfteach.objective.target import AdvantageTilted, Consensus, FromRole, GeometricMean, Mixture
from selfteach.objective.terms import (
    Entropy,
    Match,
    NegativeLogLikelihood,
    OfColumns,
    PolicyGradient,
    Sampled,
    Term,
)

ROWS, STEPS, VOCABULARY, WIDTH = 3, 4, 9, 5
MASK = torch.arange(STEPS) < torch.tensor([[4], [1], [3]])
IDS = torch.randint(VOCABULARY, (ROWS, STEPS), generator=torch.Generator().manual_seed(0))
COLUMNS = Columns(IDS, MASK, precision=torch.float64)
TEACHER = FromRole("teacher")


def random(*shape: int, seed: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64).requires_grad_()


def batch(columns: Columns = COLUMNS, **changed: Scored) -> ScoredBatch:
    """Logits and features of two roles, all leaves."""
    roles = {
        name: Scored(
            random(ROWS, STEPS, VOCABULARY, seed=seed), features=random(ROWS, STEPS, WIDTH, seed=seed + 5)
        )
        for seed, name in enumerate(("student", "teacher"))
    }
    return ScoredBatch.padded(columns, {**roles, **changed})


def outcome(term: Term, given: ScoredBatch, **options: int) -> Outcome:
    return evaluate_terms(given, plan([term], given.columns), **options)


# --- a divergence that differs from place to place -----------------------------------------------------------------


@pytest.mark.parametrize("kind", [SkewForwardKL, SkewReverseKL])
@pytest.mark.parametrize("support", [Full(), TopK(3)])
@pytest.mark.parametrize("chunk_bytes", [1, 2**20])
def test_a_skew_of_each_row_is_that_rows_own_loss(kind: Any, support: Support, chunk_bytes: int) -> None:
    alpha = torch.tensor([0.1, 0.9, 0.03], dtype=torch.float64)

    def of_the_row(at: Positions) -> Any:
        return kind(at.known(alpha, "alpha").unsqueeze(-1))

    shared: dict[str, Any] = {"name": "match", "target": TEACHER, "support": support, "mean_over": "sum"}
    given = batch()
    states = given.roles["student"].states
    together = outcome(Match(divergence=of_the_row, **shared), given, chunk_bytes=chunk_bytes).loss
    one_by_one = [
        Match(divergence=kind(float(alpha[row])), where=torch.arange(ROWS) == row, **shared)
        for row in range(ROWS)
    ]
    apart = torch.stack([outcome(term, given).loss for term in one_by_one]).sum()
    torch.testing.assert_close(together, apart)
    torch.testing.assert_close(*(torch.autograd.grad(x, states)[0] for x in (together, apart)))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.5])
def test_a_skew_outside_its_range_is_refused_for_one_position_too(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must lie strictly between"):
        SkewForwardKL(torch.tensor([[0.5], [alpha]]))


# --- features ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("chunk_bytes", [1, 2**20])
def test_hidden_pulls_one_roles_features_to_anothers(distance: str, role: str, chunk_bytes: int) -> None:
    given, other = batch(), {"student": "teacher", "teacher": "student"}[role]
    term = Hidden(name="h", role=role, target=other, distance=distance, mean_over="sequences")  # type: ignore[arg-type]
    a, b = given.roles[role].features, given.roles[other].features
    assert a is not None
    assert b is not None
    if distance == "mse":
        per_token = ((a - b.detach()) ** 2).sum(-1) / WIDTH
    else:
        per_token = 1 - (a * b.detach()).sum(-1) / a.norm(dim=-1) / b.detach().norm(dim=-1)
    weight = plan([term], COLUMNS)[0].coefficients[MASK]
    ours, theirs = outcome(term, given, chunk_bytes=chunk_bytes).loss, (weight * per_token).sum()
    torch.testing.assert_close(ours, theirs)
    wanted = [a, b, given.roles[role].states]
    for x, y in zip(
        *(torch.autograd.grad(x, wanted, allow_unused=True) for x in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(x, y)


def test_features_that_are_the_states_themselves_get_the_sum_of_both_gradients() -> None:
    states, head = random(ROWS, STEPS, WIDTH, seed=1), random(VOCABULARY, WIDTH, seed=2)
    match = Match(name="m", target=TEACHER, divergence=ForwardKL())
    hidden = Hidden(name="h", target="teacher")
    gradients = []
    for terms in ([match, hidden], [match], [hidden]):
        flat = states[MASK]
        given = batch()
        roles = {**given.roles, "student": Scored(flat, Head(head), features=flat)}
        loss = evaluate_terms(replace(given, roles=roles), plan(terms, COLUMNS)).loss
        gradients.append(torch.autograd.grad(loss, states)[0])
    torch.testing.assert_close(gradients[0], gradients[1] + gradients[2])


def test_hidden_refuses_roles_without_features_or_of_another_width() -> None:
    term = Hidden(name="h", target="teacher")
    bare = Scored(random(ROWS, STEPS, VOCABULARY, seed=1))
    with pytest.raises(ValueError, match="term 'h': role 'teacher' has no features"):
        outcome(term, batch(teacher=bare))
    with pytest.raises(ValueError, match="5 wide, of 'teacher' 3"):
        outcome(term, batch(teacher=replace(bare, features=random(ROWS, STEPS, 3, seed=1))))


# --- entropies, sampled functions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "temperature", [1.0, 0.7, lambda at: 1 + at.step.double()], ids=["1", "0.7", "a function"]
)
@pytest.mark.parametrize("penalty", [False, True])
def test_entropy_is_that_of_the_role_with_its_sign(penalty: bool, temperature: object) -> None:
    given = batch()
    term = Entropy(name="e", role="teacher", penalty=penalty, temperature=temperature)  # type: ignore[arg-type]
    states = given.roles["teacher"].states
    step = MASK.nonzero()[:, 1].double()
    at = 1 + step if callable(temperature) else torch.full_like(step, temperature)  # type: ignore[call-overload]
    entropy = torch.distributions.Categorical(logits=states / at.unsqueeze(1)).entropy()
    theirs = (entropy if penalty else -entropy).mean()
    ours = outcome(term, given).loss
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(x, states)[0] for x in (ours, theirs)))


def test_entropy_survives_a_masked_vocabulary_and_is_zero_of_one_token() -> None:
    logits = torch.full((ROWS, STEPS, VOCABULARY), -torch.inf, dtype=torch.float64)
    logits[..., 2] = 1.0
    logits = logits.requires_grad_()
    loss = outcome(Entropy(name="e"), batch(student=Scored(logits))).loss
    assert float(loss.detach()) == 0
    assert (torch.autograd.grad(loss, logits)[0] == 0).all()


TARGETS = {
    "a role": FromRole("a"),
    "mixture": Mixture({"a": 0.3, "b": 0.7}),
    "raw product": GeometricMean({"a": 0.5, "b": 0.5}, renormalize=False),
    "consensus": Consensus(("a", "b")),
}


@pytest.mark.parametrize("function", [k2, k3])
@pytest.mark.parametrize("name", TARGETS)
def test_sampled_log_probs_alone_give_the_loss_of_whole_distributions(name: str, function) -> None:  # type: ignore[no-untyped-def]
    term = Sampled(name="s", target=TARGETS[name], function=function, temperature=1.0)
    whole = {
        role: Scored(random(ROWS, STEPS, VOCABULARY, seed=seed)) for seed, role in enumerate("ab", start=7)
    }
    handed = {
        role: one.states.detach().log_softmax(-1).gather(-1, IDS.unsqueeze(-1)).squeeze(-1)
        for role, one in whole.items()
    }
    assert set(term.reads.values()) == {"sampled"}
    losses = [
        outcome(term, batch(**whole)).loss,
        outcome(term, batch(replace(COLUMNS, log_probs=handed))).loss,
    ]
    torch.testing.assert_close(*losses)


def test_terms_say_what_they_read_of_each_role() -> None:
    match = Match(name="m", target=TEACHER, divergence=ForwardKL())
    gate = ImportanceRatio(torch.zeros(ROWS, STEPS), role="old")
    advantage = torch.zeros(ROWS)
    assert match.reads == {"student": "full", "teacher": "full"}
    assert replace(match, role="teacher", target=FromRole("student")).reads == match.reads
    assert Sampled(name="s", target=TEACHER).reads == {"student": "sampled", "teacher": "sampled"}
    assert set(Sampled(name="s", target=AdvantageTilted("teacher")).reads.values()) == {"full"}
    assert set(Sampled(name="s", target=TEACHER, control_variate=Full()).reads.values()) == {"full"}
    assert NegativeLogLikelihood(name="n", gate=gate).reads == {"student": "sampled", "old": "sampled"}
    assert Hidden(name="h", target="teacher").reads == {"student": "features", "teacher": "features"}
    policy = PolicyGradient(name="p", advantage=advantage, informed_by={"teacher": "full", "student": "full"})
    assert policy.reads == {"student": "full", "teacher": "full"}


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(
    "function", [lambda p, q: -p.mean(), lambda p, q: -p.unsqueeze(1)], ids=["mean", "[P, 1]"]
)
def test_a_token_loss_that_is_not_one_number_a_position_is_refused(function, trained: bool) -> None:  # type: ignore[no-untyped-def]
    term = Sampled(name="t", target=TEACHER, function=function, mean_over="sum")
    with (
        torch.set_grad_enabled(trained),
        pytest.raises(ValueError, match=r"term 't': the token loss must be \[P\]"),
    ):
        outcome(term, batch())


EXCLUDED: dict[str, Term] = {
    "reverse KL": Match(name="t", target=TEACHER, divergence=ReverseKL()),
    "sampled": Sampled(name="t", target=TEACHER),
    "likelihood": NegativeLogLikelihood(name="t", role="teacher"),
}


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("name", EXCLUDED)
def test_an_infinite_loss_is_refused_by_term_and_place(name: str, trained: bool) -> None:
    logits = random(ROWS, STEPS, VOCABULARY, seed=1).detach()
    logits[2, 1, IDS[2, 1]] = -torch.inf
    given = batch(teacher=Scored(logits.requires_grad_()))
    with torch.set_grad_enabled(trained), pytest.raises(ValueError, match=r"term 't': .* row 2, position 1"):
        outcome(EXCLUDED[name], given)
    elsewhere = replace(EXCLUDED[name], where=torch.tensor([True, True, False]))
    assert outcome(elsewhere, given).loss.isfinite()


def test_a_gradient_that_is_not_finite_is_refused_by_term_and_place() -> None:
    place = torch.zeros(ROWS, STEPS, dtype=torch.bool)
    place[2, 1] = True

    def steep(own: Tensor, target: Tensor) -> Tensor:
        return (own - own.detach()).abs().sqrt()  # 0, with an infinite slope

    term = Sampled(name="t", target=TEACHER, function=steep, where=place)
    with pytest.raises(ValueError, match="term 't': the gradient is not finite at row 2, position 1"):
        outcome(term, batch())


def test_a_divergence_that_is_defined_where_tokens_are_excluded_goes_on_working() -> None:
    logits = random(ROWS, STEPS, VOCABULARY, seed=1).detach()
    logits[..., 0] = -torch.inf
    excluded = batch(student=Scored(logits.clone().requires_grad_()), teacher=Scored(logits.clone()))
    for divergence in (ForwardKL(), ReverseKL()):
        loss = outcome(Match(name="t", target=TEACHER, divergence=divergence), excluded).loss
        assert loss.isfinite()


# --- gates -------------------------------------------------------------------------------------------------------


def test_a_gate_of_zero_closes_a_position_whose_loss_is_infinite() -> None:
    logits = random(ROWS, STEPS, VOCABULARY, seed=1).detach()
    logits[0, 2, IDS[0, 2]] = -torch.inf
    given = batch(student=Scored(logits.requires_grad_()))
    open_at = torch.ones(ROWS, STEPS)
    open_at[0, 2] = 0
    term = NegativeLogLikelihood(name="n", gate=lambda at: torch.as_tensor(at.column(open_at)))
    found = outcome(term, given)
    assert found.loss.isfinite()
    assert torch.autograd.grad(found.loss, given.roles["student"].states)[0].isfinite().all()
    others = replace(term, gate=None, where=open_at.bool(), mean_over=MASK)
    torch.testing.assert_close(found.loss, outcome(others, given).loss)


def test_a_gate_enters_neither_selection_nor_divisor() -> None:
    given = batch()
    term = NegativeLogLikelihood(name="n", mean_over="selected")
    half = replace(term, gate=lambda at: torch.full(at.ids.shape, 0.5))
    torch.testing.assert_close(2 * outcome(half, given).loss, outcome(term, given).loss)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    ("term", "column"),
    [
        (lambda bad: NegativeLogLikelihood(name="t", gate=ImportanceRatio(bad, 2.0)), "behavior"),
        (lambda bad: PolicyGradient(name="t", advantage=bad[:, 0] * 0, behavior=bad, clip=(0.2, 0.2)), "t"),
        (lambda bad: PolicyGradient(name="t", advantage=bad), "advantage"),
        (lambda bad: NegativeLogLikelihood(name="t", weight=bad), "weight"),
        (
            lambda bad: NegativeLogLikelihood(name="t", gate=lambda at: torch.as_tensor(at.column(bad))),
            "gate",
        ),
    ],
    ids=["ratio's gate", "ratio", "advantage", "weight", "gate"],
)
def test_a_number_that_is_none_is_refused_by_term_and_column_where_it_is_read(  # type: ignore[no-untyped-def]
    term, column: str, value: float
) -> None:
    bad = torch.zeros(ROWS, STEPS, dtype=torch.float64)
    bad[2, 1] = value
    given = batch()
    with pytest.raises(ValueError, match=rf"term 't'.*{column}"):
        outcome(term(bad), given)
    elsewhere = replace(term(bad), where=torch.tensor([True, True, False]))
    assert outcome(elsewhere, given).loss.isfinite()


@pytest.mark.parametrize("shape", [(STEPS,), (ROWS, 1), (STEPS, ROWS)])
@pytest.mark.parametrize("field", ["where", "weight", "advantage", "behavior", "unit", "temperature", "gate"])
def test_a_column_of_another_shape_is_named(field: str, shape: tuple[int, ...]) -> None:
    column = torch.ones(shape, dtype=torch.float64)
    policy: dict[str, Any] = {"name": "x", "advantage": torch.ones(ROWS, dtype=torch.float64)}
    said = {"gate": "behavior"}.get(field, field)
    if field == "unit":
        term: Term = SequenceTerm(name="x", unit=column.long(), sums=random(2, seed=1), function=torch.sum)
    elif field == "gate":
        term = PolicyGradient(**policy, gate=ImportanceRatio(column))
    else:
        policy["clip"] = (0.2, 0.2) if field == "behavior" else None
        policy[field] = column > 0 if field == "where" else column
        term = PolicyGradient(**policy)
    with pytest.raises(ValueError, match=f"term 'x': {said} must be .*to fit ids"):
        outcome(term, batch())


def test_a_role_that_the_batch_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="no role 'nobody'"):
        outcome(Match(name="m", target=FromRole("nobody"), divergence=ForwardKL()), batch())


def test_without_the_student_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="roles must hold 'student'"):
        ScoredBatch.padded(COLUMNS, {"teacher": Scored(random(ROWS, STEPS, VOCABULARY, seed=1))})


# --- who gets a gradient -----------------------------------------------------------------------------------------


def test_a_head_that_two_trained_roles_share_gets_one_summed_gradient() -> None:
    head = random(VOCABULARY, WIDTH, seed=3)
    roles = {
        name: Scored(random(ROWS, STEPS, WIDTH, seed=seed), Head(head))
        for seed, name in enumerate(("student", "teacher"))
    }
    given = ScoredBatch.padded(COLUMNS, roles)
    terms = [
        NegativeLogLikelihood(name=name, role=name, coefficient=c)
        for name, c in (("student", 1), ("teacher", -3))
    ]
    both = torch.autograd.grad(evaluate_terms(given, plan(terms, COLUMNS)).loss, head)[0]
    each = [torch.autograd.grad(outcome(term, given).loss, head)[0] for term in terms]
    torch.testing.assert_close(both, each[0] + each[1])


def test_a_trained_role_that_is_also_read_by_another_term_gets_only_its_own_gradient() -> None:
    given = batch()
    up = NegativeLogLikelihood(name="n", role="teacher")
    read = Match(name="m", target=TEACHER, divergence=ReverseKL())
    loss = evaluate_terms(given, plan([up, read], COLUMNS)).loss
    states = given.roles["teacher"].states
    alone = torch.autograd.grad(outcome(up, given).loss, states)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, states)[0], alone)


# --- strings -----------------------------------------------------------------------------------------------------


def test_a_string_loss_refuses_weights_gates_and_values_that_are_no_numbers() -> None:
    unit, sums = torch.arange(ROWS), torch.tensor([-1.0, -2.0, -3.0])
    good = SequenceTerm(name="s", unit=unit, sums=sums, function=lambda s: s.exp().sum())
    for changes in ({"weight": 2.0}, {"weight": torch.ones(ROWS)}, {"gate": lambda at: at.ids * 1.0}):
        with pytest.raises(ValueError, match="weigh the units in the function"):
            replace(good, **changes)
    for broken in (torch.tensor([-1.0, torch.nan, -3.0]), torch.tensor([-1.0, torch.inf, 0.0])):
        with pytest.raises(ValueError, match=r"term 's': .* not finite"):
            replace(good, sums=broken)


def test_a_string_loss_of_no_units_is_zero() -> None:
    none = SequenceTerm(
        name="s", unit=torch.full((ROWS,), -1), sums=torch.zeros(0), function=lambda s: s.max() + s.mean()
    )
    given = batch()
    loss = outcome(none, given).loss
    assert float(loss.detach()) == 0
    assert (torch.autograd.grad(loss, given.roles["student"].states)[0] == 0).all()


def test_a_plan_without_terms_is_a_loss_of_zero_to_call_backward_on() -> None:
    given = batch()
    loss = evaluate_terms(given, plan([], COLUMNS)).loss
    assert (torch.autograd.grad(loss, given.roles["student"].states)[0] == 0).all()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"coefficient": float("nan")}, "coefficient is nan"),
        ({"coefficient": float("inf")}, "coefficient is inf"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": -1.0}, "temperature must be positive"),
        ({"temperature": float("nan")}, "temperature must be positive"),
        ({"where": torch.arange(ROWS)}, "where must be a bool tensor"),
    ],
)
def test_what_no_loss_can_mean_is_refused_by_term(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"term 'm': {said}"):
        plan([replace(Match(name="m", target=TEACHER, divergence=ForwardKL()), **changed)], COLUMNS)


def test_a_term_that_names_no_temperature_has_its_recipes_and_one_without_a_recipe_1() -> None:
    bare = Match(name="m", target=TEACHER, divergence=ForwardKL())
    assert outcome(bare, batch()).loss == outcome(replace(bare, temperature=1.0), batch()).loss
    assert outcome(bare.tempered(0.7), batch()).loss == outcome(replace(bare, temperature=0.7), batch()).loss
    assert replace(bare, temperature=2.0).tempered(0.7).temperature == 2.0  # type: ignore[attr-defined]


# --- a function of columns ---------------------------------------------------------------------------------------


def weighted_square(log_prob: Tensor, wanted: Tensor, share: Tensor) -> Tensor:
    return share * (log_prob - wanted).square()


@pytest.mark.parametrize("chunk_bytes", [1, 2**20])
def test_a_function_of_columns_reads_numbers_by_row_and_by_position(chunk_bytes: int) -> None:
    given = batch()
    wanted, share = random(ROWS, STEPS, seed=11).detach(), random(ROWS, seed=12).detach()
    term = OfColumns(
        name="t", function=weighted_square, columns={"wanted": wanted, "share": share}, mean_over="sum"
    )
    loss = outcome(term, given, chunk_bytes=chunk_bytes).loss
    states = given.roles["student"].states
    (found,) = torch.autograd.grad(loss, states)
    again = states.detach().requires_grad_()
    row, step = given.layout.row, given.layout.step
    log_prob = again.log_softmax(-1).gather(-1, IDS[row, step].unsqueeze(-1)).squeeze(-1)
    expected = (share[row] * (log_prob - wanted[row, step]).square()).sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, again)[0])


def test_what_it_reads_is_refused_by_name_where_it_is_nan_and_selected() -> None:
    wanted = torch.zeros(ROWS, STEPS, dtype=torch.float64)
    wanted[2, 1] = torch.nan
    term = OfColumns(name="t", function=weighted_square, columns={"wanted": wanted, "share": 1.0})
    with pytest.raises(ValueError, match="'t': wanted is nan at row 2, position 1"):
        outcome(term, batch())
    where = torch.ones(ROWS, STEPS, dtype=torch.bool)
    where[2, 1] = False
    assert outcome(replace(term, where=where), batch()).loss.isfinite()
