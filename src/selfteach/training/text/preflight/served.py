"""Whether a served teacher says what it should: of this vocabulary, the same twice, what its weights say here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.objective.listed import Listed
from selfteach.objective.positions import log_softmax
from selfteach.policy.chat_server import names_model
from selfteach.policy.logprob_server import ids_of, listed_by
from selfteach.policy.scorer import LocalScorer
from selfteach.roles.role import Role
from selfteach.roles.weights import Frozen
from selfteach.task.trajectory import Trajectory
from selfteach.training.text.batch import head_of
from selfteach.training.text.contexts import Context
from selfteach.training.text.preflight.check import Check
from selfteach.training.text.preflight.words import PROBE
from selfteach.training.text.teachers.handed import Piece, piece_of
from selfteach.training.text.teachers.served import ServedTeacher, prompt_of

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner

APART = 0.05
"""Nats by which a server's log-probs may differ from those of the same weights here, in the mean, without a warning."""
WRONG = 1.0
"""From here on it is another model, or reads other tokens."""


def served_checks(
    run: TextLearner, served: ServedTeacher, name: str, role: Role, rows: Sequence[Trajectory], seen: Context
) -> Iterator[Check]:
    yield Check(f"{name}: server", True, f"{names_model(served.server)}; {served.describe(name)}")
    yield same_tokens(run, served, name)
    pieces = [
        one for i, row in enumerate(rows) if (one := piece_of(row, seen, i)) is not None and one.positions
    ]
    found = [
        listed_by(served.server, [prompt_of(one) for one in pieces], served.k, served.vocabulary)
        for _ in range(2)
    ]
    why = next((one for answers in found for one in answers if isinstance(one, str)), None)
    if why is not None:
        yield Check(f"{name}: scores", False, unscored(served, why))
        return
    first, again = (
        torch.cat([one.sampled for one in answers if isinstance(one, Listed)]) for answers in found
    )
    moved = (first - again).abs()
    yield Check(
        f"{name}: determinism",
        True,
        f"the same request twice: log-probs of {len(first)} tokens differ by up to {float(moved.max()):.1e} nats",
        warns=float(moved.max()) > APART,
    )
    if isinstance(role.weights, Frozen) and run.models.stage is not None and run.models.stage[0] == 0:
        yield gap_check(name, first, here(run, pieces))


def same_tokens(run: TextLearner, served: ServedTeacher, name: str) -> Check:
    """The server's tokenizer must read a probe text as the student's does: ids are shared."""
    ours = run.policy.renderer.tokenizer.encode(PROBE, add_special_tokens=False)
    theirs = ids_of(served.server, PROBE)
    if theirs is None:
        return Check(
            f"{name}: tokenizer",
            True,
            "the server does not say how it reads a text (no /tokenize)",
            warns=True,
        )
    return Check(
        f"{name}: tokenizer",
        ours == theirs,
        "a probe text has the same ids at the server"
        if ours == theirs
        else "a probe text has other ids at the server: serve a model of the student's tokenizer",
    )


def unscored(served: ServedTeacher, why: str) -> str:
    """What to do where a server gave no scores."""
    few = "logprobs" in why and ("max" in why or "greater" in why or "exceed" in why)
    advice = (
        f"start it with --max-logprobs {served.k}, or lower --teacher-top-logprobs"
        if few
        else "see that it is vLLM's OpenAI-compatible server and has the memory for prompt_logprobs"
    )
    return f"{served.server.url} gives no log-probs of the first rollouts ({why}): {advice}"


@torch.no_grad()
def here(run: TextLearner, pieces: Sequence[Piece]) -> Float[Tensor, "P"]:
    """[P] the same tokens' log-probs by the weights as they are in this process, before the first step."""
    states = LocalScorer().states(
        run.policy,
        [list(one.context) for one in pieces],
        [list(one.response) for one in pieces],
        [list(one.written) for one in pieces],
    )
    ids = torch.tensor([token for one in pieces for token in compress(one.response, one.written)])
    log_probs = log_softmax(head_of(run.policy).logits(states))
    return log_probs.gather(-1, ids.to(log_probs.device).unsqueeze(-1)).squeeze(-1).double().cpu()


def gap_check(name: str, theirs: Float[Tensor, "P"], ours: Float[Tensor, "P"]) -> Check:
    apart = (theirs - ours).abs()
    mean, most = float(apart.mean()), float(apart.max())
    told = f"log-probs of {len(apart)} tokens are {mean:.1e} nats from those of these weights here, up to {most:.1e}"
    if mean > WRONG:
        return Check(f"{name}: gap", False, f"{told}: the server has other weights, or another context")
    return Check(f"{name}: gap", True, told, warns=mean > APART)
