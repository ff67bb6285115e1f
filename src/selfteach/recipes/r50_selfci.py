"""Two self-teachers, one told what may be said and one what must not (SelfCI)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *

ALLOW, DISALLOW, AUTHOR = "allow", "disallow", "author"
Lists = Mapping[tuple[int, str], list[str]]
"""Entries, or their explanations, by the prompt's place and the side."""
NOTE = {
    ALLOW: "{problem}\n\nNOTE: only the following is appropriate to share.\n\n{allow}",
    DISALLOW: "{problem}\n\nNOTE: the following is not appropriate to share.\n\n{disallow}",
}
VERDICT = {ALLOW: "appropriate", DISALLOW: "inappropriate"}
WHY = (
    "{problem}\n\nBy the rubric of confidentiality, proportionality and consent it is {verdict} to share this here: "
    "{entry}\nExplain why, in a few sentences."
)


@settings
class SelfCI(Recipe):
    """Distill what may and what must not be said from two notes into a student that reads neither.

    "It Takes Two: Complementary Self-Distillation for Contextual Integrity" (arXiv 2605.20258). The student π answers a
    scenario; the same weights without gradient score the answer behind a note of what may be shared (q_allow) and
    behind one of what must not (q_disallow):

        L = mean over answers of (1/|y|) Σ_t Σ_b w_b KL( π(·|x, y_<t) ‖ sg q_b(·|x, note_b, y_<t) ) / max(1, Σ_b w_b)

    As Σ w_b KL(π‖q_b) = W KL(π‖q*) − W log Z with q* the normalized product Π q_b^(w_b/W), the target is what both
    agree on. ``weighting`` "adaptive": w_allow = 1 − utility and w_disallow = 1 − integrity of the answer. An empty
    list leaves its teacher the bare prompt. Each entry's note is written once a process, by the model itself.
    """

    name = "selfci"
    title = "Complementary Self-Distillation for Contextual Integrity"
    source = "https://arxiv.org/abs/2605.20258"
    formula = "mean_y (1/|y|) Σ_t Σ_b w_b KL( π ‖ q_b ) / max(1, Σ_b w_b),  b ∈ {allow, disallow}"
    sizes = {**Recipe.sizes, "note_tokens": "tokens"}
    numbers = {"utility": "row", "integrity": "row"}
    presets = {
        "paper": {},
        "adaptive": {"weighting": "adaptive"},
        "ema": {"ema_decay": 0.999},
        "interp": {"student_share": 0.3},
        "allow-only": {"disallow_weight": 0.0},
        "disallow-only": {"allow_weight": 0.0},
    }

    rollouts: Rollouts = Rollouts(temperature=0.7, max_tokens=2048)
    optimization: Optimization = Optimization(lr=1e-6, prompts=2, steps=8850, schedule="linear", warmup=885)
    adapter: Adapter = Adapter(lora_rank=32, lora_alpha=64)
    allow_field: str = "allow"
    """The private field that lists what may be said (a JSON list, or an entry a line)."""
    disallow_field: str = "disallow"
    """The private field that lists what must not be said."""
    notes: Literal["written", "given"] = "written"
    """What the teachers read of each entry: why it may or may not be shared, written once a process by the model
    (paper), or the field as it stands."""
    note_tokens: PositiveInt = 256
    """Longest explanation of an entry, in tokens."""
    weighting: Literal["fixed", "adaptive"] = "fixed"
    """Weigh the two teachers alike for every answer, or by what each still has to teach of it."""
    allow_weight: NonNegativeFloat = 1.0
    """w_allow, fixed (README's example: 0.5 and 0.5, which is the same as 1 and 1)."""
    disallow_weight: NonNegativeFloat = 1.0
    """w_disallow, fixed."""
    ema_decay: UnitInterval | None = None
    """Decay, an optimizer step, of the average of the weights that teaches (option: 0.999; none: the initial ones)."""
    student_share: UnitInterval = 0.0
    """Share of the student's own logits in each teacher's (released option: 0.3)."""
    loss: Literal["distribution", "sampled"] = "distribution"
    """Compare whole distributions, or sampled tokens by a policy gradient (the released option lacks its detaching: a
    mean gradient of 0)."""
    student_top_k: PositiveInt | None = None
    """Compare on the student's k likeliest tokens, renormalized on both sides (option: 50; none: full vocabulary)."""
    loss_temperature: PositiveFloat | None = 1.0
    """Temperature of both softmaxes in the loss (none: the sampling temperature)."""

    def __post_init__(self) -> None:
        require(any(self.fixed.values()), "allow_weight and disallow_weight are both 0: nobody would teach")
        require(self.student_share < 1, "student_share must be below 1: nothing would be left of the teacher")
        whole = self.loss == "distribution" or self.student_top_k is None
        require(whole, "loss sampled looks at one token: set student_top_k none")

    @property
    def temperature(self) -> float:
        return self.loss_temperature or self.rollouts.temperature

    @property
    def fixed(self) -> Mapping[str, float]:
        """Each teacher's weight where it is fixed; 1 where it depends on the answer."""
        given = {ALLOW: self.allow_weight, DISALLOW: self.disallow_weight}
        return dict.fromkeys(given, 1.0) if self.weighting == "adaptive" else given

    @property
    def teachers(self) -> Mapping[str, Role]:
        whose = Frozen() if self.ema_decay is None else EMA(self.ema_decay, from_start=True)
        named = [name for name, weight in self.fixed.items() if weight]
        return {n: Role(whose, Told(NOTE[n], n, otherwise="plain"), self.student_thinking) for n in named}

    @property
    def writers(self) -> Mapping[str, Role]:
        return {AUTHOR: Role(Frozen(), Plain(), self.student_thinking)} if self.notes == "written" else {}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        """Answers, with what each teacher reads beside the question."""
        lists: Lists = {(i, side): self.entries(one, side) for i, one in enumerate(prompts) for side in NOTE}
        if self.notes == "written":
            lists = self.explained(tools, prompts, lists)
        shown = (
            {side: "\n\n".join(dict.fromkeys(lists[i, side])) for side in NOTE} for i in range(len(prompts))
        )
        told = [one.told(**notes) for one, notes in zip(prompts, shown, strict=True)]
        return tools.sample(told, self.rollouts.per_prompt)

    def entries(self, one: Prompt, side: str) -> list[str]:
        fields, private = {ALLOW: self.allow_field, DISALLOW: self.disallow_field}, one.example.private
        neither = f"example {one.example.key} has neither {self.allow_field!r} nor {self.disallow_field!r}"
        advice = f"give --allow-field and --disallow-field; known: {', '.join(sorted(private)) or 'no private field'}"
        require(any(field in private for field in fields.values()), f"{neither}: {advice}")
        return listed(private.get(fields[side], ""))

    def explained(self, tools: Tools, prompts: Sequence[Prompt], lists: Lists) -> Lists:
        """Each entry's explanation in its stead, written where the run has not met it yet."""
        names = {(i, side): f"{side} {prompts[i].example.key}" for i, side in lists}
        keys = {place: [f"{names[place]} {entry}" for entry in entries] for place, entries in lists.items()}
        why = {
            key: (prompts[i].told(entry=entry, verdict=VERDICT[side]), Told(WHY, "why"))
            for (i, side), entries in lists.items()
            for key, entry in zip(keys[i, side], entries, strict=True)
        }
        how = {"temperature": 0.6, "top_p": 0.9}
        notes = written_once(tools, "explanations", why, role=AUTHOR, max_tokens=self.note_tokens, **how)
        return {place: [notes[key] for key in own] for place, own in keys.items()}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        shares = self.shares(stats)
        for name in self.teachers:
            share = self.student_share
            target: Target = AdvantageTilted(name, temperature=1 / (1 - share)) if share else FromRole(name)
            common: dict[str, Any] = {
                "name": f"distill/{name}", "target": target, "weight": shares[name], "mean_over": "sequences",
            }  # fmt: skip
            if self.loss == "sampled":
                yield Sampled(**common)
            else:
                support = likeliest(self.student_top_k, of="student", tail="renormalize")
                yield Match(divergence=ReverseKL(), support=support, **common)

    def shares(self, stats: Statistics) -> dict[str, Float[Tensor, "N"]]:
        """[N] w_b / max(1, Σ w) of each teacher, by answer."""
        ones = torch.ones_like(stats.rows, dtype=stats.dtype)
        raw = {name: weight * ones for name, weight in self.fixed.items()}
        if self.weighting == "adaptive":
            raw = {ALLOW: 1 - stats.number("utility"), DISALLOW: 1 - stats.number("integrity")}
        total = (raw[ALLOW] + raw[DISALLOW]).clamp(min=1)
        return {name: weight / total for name, weight in raw.items()}
