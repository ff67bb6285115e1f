"""The losses of on-policy distillation by the names that papers and trainers have for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from selfteach.objective.divergence import Divergence, ForwardKL, ReverseKL, gkd_jsd
from selfteach.objective.gate import Surer
from selfteach.objective.positions import Temperature
from selfteach.objective.support import Full, Support, TopK
from selfteach.objective.target import FromRole
from selfteach.objective.terms import Match, Sampled, Term

Form = Literal[
    "topk", "topk-sg", "topk-tail", "intersect-sg", "reverse-kl", "forward-kl", "jsd", "topk-forward",
    "topk-forward-student", "topk-forward-tail", "wiener", "decoded", "sampled",
]  # fmt: skip


def losses(
    name: Form, teacher: str, k: int = 20, beta: float = 0.5, temperature: Temperature = 1.0, **shared: Any
) -> Sequence[Term]:
    """The terms of the loss ``name`` towards a role; ``shared``: the terms' other fields (``where``, ``weight`` …).

    Those of ``form``, and

    - ``wiener``: w KL(P‖Q) + (1 − w) KL(Q‖P), w the gate ``Surer``.
    - ``decoded``: log Q(y) − log P(y). Its expected gradient over y ~ P is 0.
    - ``sampled``: −sg[log Q(y) − log P(y)] log P(y), whose expected gradient is that of KL(P‖Q).

    Raises ValueError for another name.
    """
    shared = {"name": "distill", "target": FromRole(teacher), "temperature": temperature, **shared}
    if name == "sampled":
        return [Sampled(**shared)]
    if name == "decoded":
        return [Sampled(function=_decoded, **shared)]
    if name != "wiener":
        divergence, support = form(name, k, beta)
        return [Match(divergence=divergence, support=support, **shared)]
    reverse, forward = (
        {
            **shared,
            "name": f"{shared['name']}/{side}",
            "gate": Surer(teacher, temperature=temperature, rest=rest),
        }
        for side, rest in (("reverse", False), ("forward", True))
    )
    return [Match(divergence=ReverseKL(), **reverse), Match(divergence=ForwardKL(), **forward)]


def _decoded(own: Float[Tensor, "P"], theirs: Float[Tensor, "P"]) -> Float[Tensor, "P"]:
    return theirs - own


def form(name: str, k: int = 20, beta: float = 0.5) -> tuple[Divergence, Support]:
    """(what is taken of the two distributions, on which part of the vocabulary) for ``Match``.

    With P the student, Q the teacher, S the student's k likeliest tokens and T the teacher's (Many Faces, arXiv
    2605.11182):

    - ``topk``: Σ_S P log(P/Q), log-probs of the full vocabulary. BIASED: its gradient holds ∇P(S).
    - ``topk-sg``: Σ_S P sg[log(P/Q)], which is without it.
    - ``topk-tail``: a bucket holds what is outside S. Never above the full KL, equal from k = V − 1 on.
    - ``intersect-sg``: Σ_{S∩T} P̃ sg[log(P̃/Q̃)], both renormalized there; 0 where the two have nothing in common.
    - ``reverse-kl``, ``forward-kl``, ``jsd`` (``gkd_jsd(beta)``): over the full vocabulary.
    - ``topk-forward``, ``topk-forward-student``: Σ Q log(Q/P) over T or S, log-probs of the full vocabulary;
      ``topk-forward-tail``: over T and a bucket.

    Raises ValueError for another name.
    """
    held = ReverseKL(detach_ratio=True)
    forms: dict[str, tuple[Divergence, Support]] = {
        "topk": (ReverseKL(), TopK(k, "student", "drop")),
        "topk-sg": (held, TopK(k, "student", "drop")),
        "topk-tail": (ReverseKL(), TopK(k, "student", "bucket")),
        "intersect-sg": (held, TopK(k, "intersection", "renormalize")),
        "reverse-kl": (ReverseKL(), Full()),
        "forward-kl": (ForwardKL(), Full()),
        "jsd": (gkd_jsd(beta), Full()),
        "topk-forward": (ForwardKL(), TopK(k, "teacher", "drop")),
        "topk-forward-student": (ForwardKL(), TopK(k, "student", "drop")),
        "topk-forward-tail": (ForwardKL(), TopK(k, "teacher", "bucket")),
    }
    if name not in forms:
        raise ValueError(f"name must be one of {', '.join(forms)}, got {name!r}")
    return forms[name]
