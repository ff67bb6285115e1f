"""What an alarm sounds at: each rule looks at a run's first row, its first few and the present, and says what is wrong.

The bounds are papers' or were chosen here, as stands beside each; when a rule is asked is the watch's (``alarms``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from selfteach.task.outcome import UNREAD

LONGER, SHORTER = 2.0, 0.5
"""Factors of length (TRACE: 2027 → 1042 and 1873 → 759 tokens as accuracy fell; Many Faces: length runs away)."""
FAR_LONGER = 4.0
"""A factor of length that is suspicious even while the reward rises: a verifier may be paying for length."""
CUT, ALL_CUT = 0.25, 0.95
"""Rise of the share of rollouts cut by the limit (Vision-OPD's runs saw more than its paper told), and when all are."""
ENTROPY_GONE, ENTROPY_UP = 0.2, 3.0
"""Factors of the student's entropy (chosen here between healthy and collapsed arena runs; no paper gives a bound)."""
LOOPS = 0.1
"""Share of rollouts that repeat themselves (each: 3-gram repetition ratio above 0.6, MAD-OPD)."""
ALIKE = 0.5
"""Factor of distinct-3 over all rollouts: half of the diversity (chosen here)."""
DIVERGED = 1.5
"""Factor of a divergence (TCOD: it climbs as success collapses; TT-OPD turns the loss off above 0.7 nats)."""
FELL, GAINED = 0.7, 0.05
"""Factor of the reward that counts as fallen; rise of it that counts as learning."""
NO_DIVERGENCE, NO_GRADIENT = 1e-4, 1e-2
"""Nats a token and gradient norm below which a step teaches nothing (bfloat16 alone makes some 1e-5 nats)."""
NOTHING = 1e-8
"""Gradient norm below which a step moves nothing: what stays of terms that are 0."""
MANY = 16
"""So many graded answers of one step, all of one reward, are no chance."""
MASS = 0.05
"""Fall of the student's probability on its own likeliest tokens (Many Faces: biased top-k losses push it out)."""
LEAKS = 0.05
"""Share of wrong rollouts with a private phrase, or of rollouts that speak of the privilege (pi-Distill)."""
STYLE = 0.5
"""Share of all divergence on style tokens (OPSD: they carry 0.79–0.92 nats, content 0.06–0.14)."""
LOST, NOISE = 0.3, 3.0
"""Share of its best that the headline has lost, and the standard errors that the loss must exceed (chosen here)."""

Means = Mapping[str, float]
TURNS = "grade/turns"
"""Of episodes: turns of one, by which their length is divided before a rule sees it."""
KEPT = re.compile(
    r"step|stage|loss|length/mean|truncated|reward/(mean|std|zero_std)|grad_norm(/[^/]+)?|unavailable/[^/]+|verdicts/[^/]+"
    r"|grade/turns|entropy/student|mass/student|distinct/3|repetition/looping"
    r"|leakage/\w+|divergence/[^/]+|divergence_share/[^/]+/style"
)


def looked_at(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row that some rule reads.

    Of episodes the length of a turn: that more of them are taken is no fault, and a recipe may allow more and more
    (TCOD).
    """
    found = {
        name: float(value)
        for name, value in row.items()
        if KEPT.fullmatch(name) and isinstance(value, int | float)
    }
    if found.get(TURNS, 0) > 0 and "length/mean" in found:
        found["length/mean"] /= found[TURNS]
    return found


@dataclass(frozen=True)
class Seen:
    """What a rule judges: the first row, the mean of the first few, and now (the mean of the latest, or one row)."""

    first: Means
    start: Means
    now: Means

    def factor(self, name: str) -> float | None:
        """Now over the first row; None where the run has no such metric, or it began at 0."""
        return self.now[name] / self.first[name] if name in self.now and self.first.get(name, 0) > 0 else None

    def change(self, name: str) -> float:
        """Now minus the first row; 0 where the run has no such metric."""
        return self.now[name] - self.first[name] if name in self.now and name in self.first else 0.0

    def change_in(self, name: str) -> str:
        return f"{name} {self.first.get(name, 0.0):.3g} → {self.now[name]:.3g}"

    @property
    def unit(self) -> str:
        """What length/mean counts, as ``looked_at`` keeps it."""
        return "tokens a turn" if TURNS in self.now else "tokens"

    @property
    def learning(self) -> bool:
        """Whether the reward has risen: then a changed length or entropy may be what was learned."""
        return self.now.get("reward/mean", 0.0) - self.start.get("reward/mean", 0.0) >= GAINED

    @property
    def worse(self) -> bool:
        return self.now.get("reward/mean", 0.0) < FELL * self.start.get("reward/mean", 0.0)

    def teachers(self) -> list[str]:
        return [name.split("/")[1] for name in self.now if re.fullmatch(r"divergence/[^/]+", name)]


Rule = Callable[[Seen], str | None]
"""What is wrong, in numbers; None: nothing."""


def longer(seen: Seen) -> str | None:
    factor = seen.factor("length/mean")
    excused = seen.learning and seen.change("truncated") < CUT
    if factor is None or factor < (FAR_LONGER if excused else LONGER):
        return None
    return f"{seen.change_in('length/mean')} {seen.unit}"


def shorter(seen: Seen) -> str | None:
    factor = seen.factor("length/mean")
    if factor is None or factor > SHORTER or seen.learning:
        return None
    return f"{seen.change_in('length/mean')} {seen.unit}, while the reward did not rise"


def cut(seen: Seen) -> str | None:
    if seen.change("truncated") < CUT and seen.now.get("truncated", 0.0) < ALL_CUT:
        return None
    return f"share of rollouts cut by the length limit {seen.first['truncated']:.2f} → {seen.now['truncated']:.2f}"


def certain(seen: Seen) -> str | None:
    factor, diversity = seen.factor("entropy/student"), seen.factor("distinct/3")
    alike = diversity is not None and diversity <= ALIKE
    if factor is None or factor > ENTROPY_GONE or (seen.learning and not alike):
        return None
    why = seen.change_in("distinct/3") if alike else "the reward did not rise"
    return f"{seen.change_in('entropy/student')} nats a token; {why}"


def uncertain(seen: Seen) -> str | None:
    factor = seen.factor("entropy/student")
    return (
        None if factor is None or factor < ENTROPY_UP else f"{seen.change_in('entropy/student')} nats a token"
    )


def repeating(seen: Seen) -> str | None:
    if seen.now.get("repetition/looping", 0.0) >= LOOPS:
        return f"share of rollouts that loop {seen.change_in('repetition/looping')}"
    factor = seen.factor("distinct/3")
    return (
        seen.change_in("distinct/3") if factor is not None and factor <= ALIKE and not seen.learning else None
    )


def diverging(seen: Seen) -> str | None:
    for name in seen.teachers():
        factor = seen.factor(f"divergence/{name}")
        if factor is not None and factor >= DIVERGED and seen.worse:
            reward = f"{seen.start['reward/mean']:.3g} → {seen.now['reward/mean']:.3g}"
            return f"{seen.change_in(f'divergence/{name}')} nats a token, reward {reward}"
    return None


def silent(seen: Seen) -> str | None:
    gaps = [seen.now[f"divergence/{name}"] for name in seen.teachers()]
    if any(gap >= NO_DIVERGENCE for gap in gaps) or seen.now.get("grad_norm", 1.0) >= NO_GRADIENT:
        return None
    largest = f"largest divergence {max(gaps):.1e} nats a token, " if gaps else ""
    return f"{largest}gradient norm {seen.now['grad_norm']:.1e}"


def escaping(seen: Seen) -> str | None:
    return seen.change_in("mass/student") if seen.change("mass/student") <= -MASS else None


def leaking(seen: Seen) -> str | None:
    if seen.now.get("leakage/copied", 0.0) >= LEAKS:
        return f"share of wrong answers with a private phrase {seen.change_in('leakage/copied')}"
    if seen.now.get("leakage/mentioned", 0.0) >= LEAKS:
        return f"share of answers that speak of a hint or reference {seen.change_in('leakage/mentioned')}"
    return None


def styled(seen: Seen) -> str | None:
    for name in seen.teachers():
        share = seen.now.get(f"divergence_share/{name}/style", 0.0)
        if share > STYLE:
            return f"{share:.0%} of the divergence from {name} is on style tokens"
    return None


def falling(seen: Seen) -> str | None:
    if seen.now.get("eval/lost", 0.0) < LOST:
        return None
    best, now = seen.now["eval/best"], seen.now["eval/headline"]
    return f"eval/headline was {best:.3g} at best, and is {now:.3g} in the mean over the latest steps"


def norms(row: Means) -> list[float]:
    return [value for name, value in row.items() if name.partition("/")[0] == "grad_norm"]


def idle(row: Mapping[str, Any]) -> bool:
    """Whether a step moved nothing: every gradient is 0."""
    found = norms(looked_at(row))
    return bool(found) and max(found) < NOTHING


def idle_steps(before: int, row: Mapping[str, Any]) -> int:
    """Steps in a row without a gradient, with one more row; one without a norm (no optimizer stepped) says nothing."""
    return before if not norms(looked_at(row)) else before + 1 if idle(row) else 0


def nothing(seen: Seen) -> str | None:
    if not idle(seen.now):
        return None
    row = seen.now
    told = [f"gradient norm {max(norms(row)):.1e}, loss {row.get('loss', 0.0):.4f}"]
    told += [
        f"{one} sees nothing in {share:.0%} of the rollouts" for one, share in unavailable(row) if share > 0
    ]
    if "reward/zero_std" in row:
        told.append(
            f"{row['reward/zero_std']:.0%} of the groups have equal rewards (mean {row['reward/mean']:.2g})"
        )
    return "; ".join(told)


def unavailable(row: Means) -> list[tuple[str, float]]:
    return [(name.split("/", 1)[1], value) for name, value in row.items() if name.startswith("unavailable/")]


def blind(seen: Seen) -> str | None:
    names = [name for name, share in unavailable(seen.now) if share == 1]
    return f"{' and '.join(names)} had nothing to see in any rollout" if names else None


def all_cut(seen: Seen) -> str | None:
    if seen.now.get("truncated", 0.0) < 1:
        return None
    return f"the length limit cut every rollout (mean length {seen.now.get('length/mean', 0.0):.0f} tokens)"


def unread(seen: Seen) -> str | None:
    counts = {
        name.split("/", 1)[1]: value for name, value in seen.now.items() if name.startswith("verdicts/")
    }
    lost = {name: int(counts.get(name, 0)) for name in UNREAD}
    if not sum(counts.values()) or sum(lost.values()) < sum(counts.values()):
        return None
    return (
        ", ".join(f"{name}: {count}" for name, count in lost.items() if count)
        + f" of {int(sum(counts.values()))}"
    )


def same_rewards(seen: Seen) -> str | None:
    """Rewards that all are the same, of as many answers as chance does not explain; 1 for all is none to mend."""
    row = seen.now
    if unread(seen) is not None:  # then that is why
        return None
    graded = sum(value for name, value in row.items() if name.startswith("verdicts/"))
    if row.get("reward/std", 1.0) > 0 or graded < MANY or row.get("reward/mean", 1.0) >= 1:
        return None
    return f"{int(graded)} answers of this step all have reward {row['reward/mean']:.3g}"


RULES: Mapping[str, Rule] = {
    "length runs away": longer,
    "length dies": shorter,
    "rollouts are cut": cut,
    "entropy collapses": certain,
    "entropy explodes": uncertain,
    "repetition": repeating,
    "divergence rises, reward falls": diverging,
    "no signal": silent,
    "top-k mass is lost": escaping,
    "leakage": leaking,
    "style dominates": styled,
    "headline falls": falling,
}
"""Judged by means, once there are ``WINDOW`` rows."""
AT_ONCE: Mapping[str, Rule] = {
    "nothing to learn": nothing,
    "a teacher sees nothing": blind,
    "every answer is cut": all_cut,
    "no answer can be read": unread,
    "all rewards are equal": same_rewards,
}
"""Judged by rows alone: a stage's first, or any ``IN_A_ROW``; each sounds until none of the latest ``WINDOW`` rows
shows it."""
