"""Metrics of distributions at a part of a step's tokens: which, the same for any split, and what their means are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from runs import TextRun, run_of, weights
from selfteach.objective.batch import STUDENT, Scored, ScoredBatch
from selfteach.objective.columns import Columns
from selfteach.objective.divergence import ForwardKL, ReverseKL
from selfteach.objective.engine import Outcome, evaluate_terms
from selfteach.objective.head import Head
from selfteach.objective.layout import Layout
from selfteach.objective.plan import plan
from selfteach.objective.positions import Positions
from selfteach.objective.statistics import entropy
from selfteach.objective.target import FromRole
from selfteach.objective.terms import Match, NegativeLogLikelihood
from selfteach.training.text import metrics
from selfteach.training.text.drawn import Drawn

ROWS, STEPS, V = 6, 40, 13


def columns() -> Columns:
    lengths = torch.tensor([40, 3, 25, 17, 40, 1])
    blind = torch.tensor([False, False, True, True, False, False])
    return Columns(
        torch.randint(V, (ROWS, STEPS), generator=torch.Generator().manual_seed(0)),
        torch.arange(STEPS) < lengths.unsqueeze(1),
        available={"teacher": ~blind, "seldom": torch.tensor([False, True, False, False, False, False])},
    )


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch() -> ScoredBatch:
    roles = {
        name: Scored(random(ROWS, STEPS, V, seed=i)) for i, name in enumerate((STUDENT, "teacher", "seldom"))
    }
    return ScoredBatch.padded(columns(), roles)


def test_so_many_tokens_are_drawn_of_those_that_a_role_sees_and_all_of_fewer() -> None:
    drawn = Drawn(columns(), seed=1, step=2, most=30)
    assert int(drawn.of().sum()) == int(drawn.of("teacher").sum()) == 30
    assert torch.equal(drawn.of("seldom"), columns().seen(("seldom",)))
    for role in (STUDENT, "teacher"):
        assert not (drawn.of(role) & ~columns().seen((role,))).any()
    assert torch.equal(Drawn(columns(), 1, 2, None).of("teacher"), columns().seen(("teacher",)))


def test_what_is_drawn_is_a_function_of_seed_step_row_and_position() -> None:
    once = Drawn(columns(), 1, 2, 30).of()
    assert torch.equal(once, Drawn(columns(), 1, 2, 30).of())
    wider = replace(columns(), available={})
    ids, mask = (torch.nn.functional.pad(one, (0, 9)) for one in (wider.ids, wider.mask))
    assert torch.equal(once, Drawn(Columns(ids, mask), 1, 2, 30).of()[:, :STEPS])
    for other in (Drawn(columns(), 2, 2, 30), Drawn(columns(), 1, 3, 30)):
        assert not torch.equal(once, other.of())


def test_every_token_is_drawn_as_often_as_another() -> None:
    steps, most = 2000, 30
    count = sum(Drawn(columns(), 0, step, most).of().double() for step in range(steps))
    assert isinstance(count, torch.Tensor)
    chance = most / int(columns().mask.sum())
    spread = (steps * chance * (1 - chance)) ** 0.5
    assert ((count[columns().mask] - steps * chance).abs() < 5 * spread).all()


def measured(
    given: ScoredBatch, most: int | None, term: Match | NegativeLogLikelihood, parts: list[list[int]]
) -> tuple[list[Outcome], Drawn]:
    drawn = Drawn(given.columns, 0, 0, most)
    watch = metrics.watched(("teacher", "seldom"), 1.3, drawn)
    weighted, found = plan([term], given.columns), []
    for rows in parts:
        here = torch.isin(given.layout.row, torch.tensor(rows))
        roles = {name: replace(one, states=one.states[here]) for name, one in given.roles.items()}
        part = ScoredBatch(given.columns, roles, Layout(given.layout.row[here], given.layout.step[here]))
        found.append(evaluate_terms(part, weighted, watch=watch, chunk_bytes=8 * V * 7 * 3))
    return found, drawn


CLASSES = (["low", "high"], (torch.arange(V) > 5).long())
MATCH = Match(name="match", target=FromRole("teacher"), divergence=ReverseKL(), temperature=1.3)
ALONE = NegativeLogLikelihood(name="nll", where=torch.tensor([True, False, True, False, True, True]))


@pytest.mark.parametrize("most", [None, 30, 7])
@pytest.mark.parametrize("term", [MATCH, ALONE], ids=["a term that reads a teacher", "one that reads none"])
def test_means_are_the_plain_formulas_at_the_drawn_tokens_for_any_split(
    most: int | None, term: Match | NegativeLogLikelihood
) -> None:
    given = batch()
    for parts in ([list(range(ROWS))], [[0, 1], [2], [3, 4, 5]]):
        outcomes, drawn = measured(given, most, term, parts)
        means = metrics.token_means(outcomes, CLASSES, drawn)
        p, q, rare = (
            given.spread(given.roles[name].states / 1.3).log_softmax(-1)
            for name in (STUDENT, "teacher", "seldom")
        )
        at, seen, few = drawn.of(), drawn.of("teacher"), drawn.of("seldom")
        kl = ForwardKL()(p[seen], q[seen])
        ids = given.columns.ids[seen]
        top = [one[seen].topk(metrics.TOP_K).indices for one in (p, q)]
        expected = {
            "tokens_measured": int(at.sum()),
            "entropy/student": entropy(p[at]).mean(),
            "entropy/teacher": entropy(q[seen]).mean(),
            "entropy/seldom": entropy(rare[few]).mean(),
            "divergence/teacher": kl.mean(),
            "divergence/teacher/low": kl[ids <= 5].mean(),
            "divergence_share/teacher/high": kl[ids > 5].sum() / kl.sum(),
            "mass/student": p[at].exp().topk(metrics.TOP_K).values.sum(-1).mean(),
            "mass/teacher": p[seen].exp().gather(1, top[1]).sum(-1).mean(),
            "overlap/teacher": (top[0].unsqueeze(2) == top[1].unsqueeze(1)).any(2).double().mean(),
        }
        for name, value in expected.items():
            assert means[name] == pytest.approx(float(value), rel=1e-9), name


def test_excluded_tokens_have_their_metrics_too() -> None:
    given = batch()
    for name in given.roles:
        given.roles[name].states[:, 2:5] = -torch.inf
    given = replace(given, columns=replace(given.columns, ids=given.columns.ids.clamp(max=1)))
    (outcome,), drawn = measured(given, None, ALONE, [list(range(ROWS))])
    seen = given.layout.at(drawn.of("teacher"))
    p, q = (given.roles[name].states[seen].div(1.3).log_softmax(-1) for name in (STUDENT, "teacher"))
    torch.testing.assert_close(outcome.token["divergence/teacher"][seen], ForwardKL()(p, q))
    torch.testing.assert_close(outcome.token["entropy/teacher"][seen], entropy(q))


def test_logits_of_a_role_that_no_term_reads_are_made_at_the_drawn_tokens_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given, made = batch(), {"teacher": 0, STUDENT: 0}
    roles = {
        name: replace(one, head=Head(scale=2.0 if name == "teacher" else 1.0))
        for name, one in given.roles.items()
    }
    real = Head.logits

    def counted(self: Head, hidden: torch.Tensor) -> torch.Tensor:
        if self.scale == 2.0:
            made["teacher"] += len(hidden)
        return real(self, hidden)

    monkeypatch.setattr(Head, "logits", counted)
    _, drawn = measured(replace(given, roles=roles), 10, ALONE, [list(range(ROWS))])
    assert made["teacher"] == int((drawn.of("teacher") | drawn.of("seldom")).sum()) < 14


def test_what_is_made_of_the_whole_is_read_by_its_parts() -> None:
    at = Positions(*(torch.zeros(6, dtype=torch.long) for _ in range(3)), {STUDENT: random(6, V, seed=1)})
    whole = at.probs(STUDENT, 1.3)
    for which in (slice(1, 4), torch.tensor([True, False] * 3), torch.tensor([5, 0])):
        part = at.take(which)
        torch.testing.assert_close(part.probs(STUDENT, 1.3), whole[which], rtol=0, atol=0)
        torch.testing.assert_close(part.log_probs(), part.logits[STUDENT].log_softmax(-1))
        moved = part.with_logits({STUDENT: 2 * part.logits[STUDENT]})
        torch.testing.assert_close(moved.probs(STUDENT, 1.3), (2 * part.logits[STUDENT] / 1.3).softmax(-1))


# --- in training ------------------------------------------------------------------------------------------------


def two_steps(tiny: str, *words: str) -> TextRun:
    run = run_of(tiny, "--lr", "1e-3", *words)
    for _ in range(2):
        run.stepped()
    return run


def test_how_much_is_measured_changes_no_weight_and_leaves_no_metric_out(tiny: str) -> None:
    whole, few = two_steps(tiny, "--metrics-tokens", "none"), two_steps(tiny, "--metrics-tokens", "5")
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(few)[name]), name
    for all_of_it, part in zip(whole.progress.rows, few.progress.rows, strict=True):
        classes = {name for name in all_of_it if name.count("/") == 2}
        assert set(all_of_it) - classes <= set(part)
        assert part["tokens_measured"] == 5 < all_of_it["tokens_measured"]
        assert all(part[name] == part[name] for name in part if isinstance(part[name], float))
    assert whole.progress.rows[0]["divergence/teacher"] != few.progress.rows[0]["divergence/teacher"]


@pytest.mark.parametrize("recipe", ["opsd", "grpo"])
def test_drawn_metrics_do_not_depend_on_micro_batches_or_minibatches(recipe: str, tiny: str) -> None:
    rows = []
    for words in (("--micro-batch", "1"), ("--micro-batch", "3"), ("--minibatches", "2")):
        run = run_of(tiny, "--metrics-tokens", "7", "--lr", "1e-30", *words, recipe=recipe)
        rows.append(run.stepped())
    names = [name for name in rows[0] if name.split("/")[0] in (*metrics.WATCHED, "tokens_measured")]
    assert {"entropy/student", "mass/student", "tokens_measured"} <= set(names)
    assert ("divergence/teacher" in names) == (recipe == "opsd")
    for name in names:
        assert rows[1][name] == pytest.approx(rows[0][name], rel=1e-4), name
        assert rows[2][name] == pytest.approx(rows[0][name], rel=1e-4), name
