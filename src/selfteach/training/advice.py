"""What to do about an alarm: only what the run does not do already, and can do, by its settings.

``Settings`` are the present stage's knobs by flat name, ``teachers`` (kinds of weights of the roles beside the student:
"live", "ema", "frozen" …), ``room`` (the largest max_tokens that the model's window allows), ``takes`` (knob, value →
whether the recipe may be given that; none: it takes all). A run without text has none of them, and is given what holds
for any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfteach.training.papers import cited

Settings = Mapping[str, Any]
TOP_K = ("student_top_k", "teacher_top_k", "loss_top_k", "view_top_k")
"""Knobs that cut a divergence down to some tokens."""


def always(settings: Settings) -> bool:
    return True


@dataclass(frozen=True)
class Advice:
    """``fits``: whether a run of these settings can follow it and does not do so already."""

    text: str
    fits: Callable[[Settings], bool] = always


def given(settings: Settings) -> bool:
    """Whether anything is known of the run."""
    return bool(settings)


def teaches(*kinds: str) -> Callable[[Settings], bool]:
    """A teacher has weights of one of these kinds."""
    return lambda s: any(one in kinds for one in s.get("teachers", ()))


def takes(settings: Settings, knob: str, value: Any) -> bool:
    """Whether the run has the knob, and its recipe may be given this value of it."""
    return knob in settings and settings.get("takes", lambda knob, value: True)(knob, value)


def can_be(knob: str, *values: Any) -> Callable[[Settings], bool]:
    """The run has the knob, it is none of these, and may be one of them."""
    return lambda s: knob in s and s[knob] not in values and any(takes(s, knob, value) for value in values)


def times(knob: str, factor: float) -> Callable[[Settings], bool]:
    """The run has the knob as a number, which may be so many times what it is."""

    def fits(settings: Settings) -> bool:
        value = settings.get(knob)
        return isinstance(value, int | float) and takes(settings, knob, type(value)(value * factor))

    return fits


def both(*conditions: Callable[[Settings], bool]) -> Callable[[Settings], bool]:
    return lambda s: all(one(s) for one in conditions)


def top_k(settings: Settings) -> bool:
    return any(settings.get(knob) is not None for knob in TOP_K)


def in_groups(settings: Settings) -> bool:
    """Whether several answers to one prompt are compared."""
    return int(settings.get("per_prompt", 1)) > 1


def can_be_frozen(settings: Settings) -> bool:
    return can_be("weights", "frozen")(settings) and teaches("live", "ema", "lagged", "ring")(settings)


def has_room(settings: Settings) -> bool:
    longest, room = settings.get("max_tokens"), settings.get("room")
    return isinstance(longest, int) and (room is None or longest < int(room))


def reverse(settings: Settings) -> bool:
    """Whether the divergence is the reverse KL as far as it can be chosen (1 in ``beta`` and in ``alpha``)."""
    chosen = [settings[knob] for knob in ("beta", "alpha") if isinstance(settings.get(knob), int | float)]
    return not chosen or all(value == 1 for value in chosen)


def spans(settings: Settings) -> bool:
    return "spans" in settings


LOWER = (
    Advice("lower --lr", lambda s: "lr" in s),
    Advice("lower the learning rate", lambda s: "lr" not in s),
)
FREEZE = (
    Advice(f"keep the teacher frozen, --weights frozen ({cited('SDPO')})", can_be_frozen),
    Advice(
        f"train against a teacher that moves less ({cited('SDPO')})",
        lambda s: teaches("live", "lagged", "ring")(s) and not can_be_frozen(s),
    ),
)
SPANS = Advice(f"train on the spans that decide ({cited('TRACE')})", lambda s: not spans(s) and given(s))
MANY = cited("The Many Faces of On-Policy Distillation")
RATIO = Advice(f"stop the gradient of the log-ratio, as in ReverseKL(detach_ratio=True) ({MANY})", top_k)
BUCKET = Advice(f"keep the mass outside as one bucket, --tail bucket ({MANY})", can_be("tail", "bucket"))
RENORMALIZE = Advice(f"renormalize both sides, --tail renormalize ({MANY})", can_be("tail", "renormalize"))
WHOLE = Advice(f"compare the whole vocabulary ({MANY})", top_k)
CUT = (
    Advice(f"raise --max-tokens; what is cut has no graded end ({cited('Vision-OPD')})", has_room),
    Advice(
        "max_tokens is as large as the model's window allows: ask for shorter answers (--system-prompt), or give a "
        "model with a longer window",
        lambda s: "max_tokens" in s and not has_room(s),
    ),
    Advice("let episodes run to their end", lambda s: "max_tokens" not in s),
)
DOCTOR = Advice("see what each role is shown (selfteach doctor)", lambda s: bool(s.get("teachers")))
WARMER = Advice(
    "raise --temperature", lambda s: s.get("temperature", 1.0) < 1.0 and takes(s, "temperature", 1.0)
)
LOOK = Advice("look at the answers (samples.jsonl, the report)")
MORE_ANSWERS = (
    Advice(
        "raise --per-prompt, so that some answer of a group is another",
        both(in_groups, times("per_prompt", 2)),
    ),
    WARMER,
    Advice("begin with easier problems", in_groups),
)
AGREE = (
    Advice(
        "teacher and student agree at every token: give another --teacher",
        lambda s: "teacher" in s and not in_groups(s),
    ),
    Advice(
        "teacher and student agree at every token: show the teacher more, --view solution",
        lambda s: can_be("view", "solution")(s) and not in_groups(s),
    ),
)
FEEDBACK = Advice(
    f"show the teacher what the verifier said, --feedback always ({cited('SDPO')})",
    can_be("feedback", "always"),
)
SIBLINGS = Advice("a right answer may be shown to itself, --own-success", can_be("own_success", True))

ADVICE: Mapping[str, Sequence[Advice]] = {
    "length runs away": (
        *LOWER,
        Advice(
            f"weigh late tokens less: a loss on all tokens makes the end of turn ever less likely ({MANY})"
        ),
        Advice(
            "see that student and teacher end a turn with the same token", lambda s: bool(s.get("teachers"))
        ),
    ),
    "length dies": (
        Advice(
            "self-distillation on all tokens copies the teacher's terseness: train on the spans that decide, or fade "
            f"the divergence out and go on with the reward ({cited('TRACE')})",
            lambda s: given(s) and not spans(s),
        ),
        Advice(
            f"a mean over sequences holds the length, --mean-over ({cited('TCOD')})",
            can_be("mean_over", "sequences", "rollouts", "prompts"),
        ),
        *LOWER,
    ),
    "rollouts are cut": CUT,
    "entropy collapses": (
        *LOWER,
        Advice(
            f"anchor the student to its start by a KL term ({cited('OmniOPD')})",
            lambda s: given(s) and "kl" not in s,
        ),
        Advice(f"raise --kl, which anchors the student to its start ({cited('OmniOPD')})", times("kl", 2)),
        *FREEZE,
        WARMER,
    ),
    "entropy explodes": (
        *LOWER,
        Advice(
            f"forward KL spreads the student: try reverse KL ({cited('VLA-OPD')})", lambda s: not reverse(s)
        ),
        WHOLE,
        BUCKET,
        Advice(
            "lower --temperature", lambda s: s.get("temperature", 1.0) > 1.0 and takes(s, "temperature", 1.0)
        ),
    ),
    "repetition": (
        RATIO,
        RENORMALIZE,
        Advice(f"leave looping rollouts out of the loss ({cited('MAD-OPD')})"),
        *LOWER,
    ),
    "divergence rises, reward falls": (
        *FREEZE,
        *LOWER,
        Advice(f"shorter rollouts first ({cited('TCOD')})", given),
    ),
    "no signal": (
        DOCTOR,
        Advice(f"show the teacher more, --view solution ({cited('pi-Distill')})", can_be("view", "solution")),
        Advice("teacher and student agree: stop if the reward is where it should be"),
    ),
    "top-k mass is lost": (BUCKET, RENORMALIZE, RATIO, WHOLE, *LOWER),
    "leakage": (
        Advice(
            f"tell the teacher to use its own words ({cited('OPSD')})",
            lambda s: bool(s.get("teachers")),
        ),
        Advice(
            f"show it a coarser privilege, --view answer ({cited('TRACE')})",
            lambda s: can_be("view", "answer")(s) and s["view"] != "plain",
        ),
        Advice(f"weigh such tokens down ({cited('pi-Distill')})"),
    ),
    "style dominates": (
        Advice(
            f"cap each vocabulary entry with --clip-entry 0.05 ({cited('OPSD')})",
            lambda s: s.get("clip_entry") is None and takes(s, "clip_entry", 0.05),
        ),
        Advice(
            f"lower --clip-entry, the cap of each vocabulary entry ({cited('OPSD')})",
            times("clip_entry", 0.5),
        ),
        SPANS,
        Advice("look at which words they are (the report)"),
    ),
    "headline falls": (
        Advice("keep checkpoints of evaluated steps and take the best one, or stop earlier"),
        *LOWER,
        Advice(
            "a model that is distilled into itself again and again needs some ground truth in every round "
            f"({cited('Even your Teacher Needs Guidance')})"
        ),
    ),
    "nothing to learn": (*AGREE, *MORE_ANSWERS, FEEDBACK, SIBLINGS, DOCTOR, LOOK),
    "a teacher sees nothing": (FEEDBACK, SIBLINGS, *MORE_ANSWERS, DOCTOR, LOOK),
    "every answer is cut": CUT,
    "no answer can be read": (
        Advice("see what form the task asks for and grades: --answer-format, --verifier"),
        *CUT[:2],
        LOOK,
    ),
    "all rewards are equal": (
        Advice("see what the reward looks for, and the references (selfteach doctor)"),
        *MORE_ANSWERS,
        LOOK,
    ),
}
"""By alarm, the first things to try first."""


def advised(alarm: str, settings: Settings) -> str:
    """What fits the run, in one line."""
    return "; ".join(dict.fromkeys(one.text for one in ADVICE[alarm] if one.fits(settings)))
