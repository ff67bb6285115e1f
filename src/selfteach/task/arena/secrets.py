"""World "secrets": a context of private facts, some of which may be said for the purpose at hand and some must not.

Which facts a purpose calls for is a norm that the model does not know (contextual integrity, SelfCI). Its two halves
are two kinds of help: what may be said, and what must not. Either alone leaves the other half to a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random

from selfteach.errors import UserError
from selfteach.task.arena.lesson import Lesson, Problems
from selfteach.task.example import Grade
from selfteach.task.verdict import Verdict

NORMS: Mapping[str, str] = {
    "bank": "aceg", "doctor": "abfh", "school": "bcdh", "shop": "adfg", "hotel": "befg", "friend": "cdeh",
}  # fmt: skip
"""The facts that each purpose calls for; the others are none of its business."""
KEYS = "abcdefgh"
LEAST, MOST = 2, 4
PROBLEM = re.compile(rf"({'|'.join(NORMS)}):([{KEYS}][0-9]{{2}};){{{LEAST},{MOST}}}", re.ASCII)
SAID = re.compile(rf"([{KEYS}][0-9]{{2}};)*#", re.ASCII)
WORDING: Mapping[str, str] = {
    "allow": "{problem}|+{allow}",
    "disallow": "{problem}|-{disallow}",
    "norm": "{problem}|+{allow}-{disallow}",
}


def pose(rng: Random) -> str:
    """A purpose and two to four facts, of which at least one may be said and one must not: ``bank:a31;b07;c55;``."""
    while True:
        purpose = rng.choice(list(NORMS))
        keys = sorted(rng.sample(KEYS, rng.randint(LEAST, MOST)))
        if 0 < sum(key in NORMS[purpose] for key in keys) < len(keys):
            return f"{purpose}:" + "".join(f"{key}{rng.randrange(100):02d};" for key in keys)


def kind(problem: str) -> str:
    """The purpose."""
    return problem.partition(":")[0]


def facts(problem: str) -> list[str]:
    """The context's facts, each a key with its two digits."""
    return problem.partition(":")[2].removesuffix(";").split(";")


def allowed(problem: str) -> list[str]:
    """Those that the purpose calls for."""
    return [fact for fact in facts(problem) if fact[0] in NORMS[kind(problem)]]


def tell(problem: str) -> Mapping[str, str]:
    """``allow`` and ``disallow``, the keys of the facts that may and that must not be said."""
    keys = [fact[0] for fact in facts(problem)]
    if not PROBLEM.fullmatch(problem) or len(set(keys)) < len(keys):
        raise UserError(f"world 'secrets': {problem!r} is no problem of it; write it as bank:a31;b07;c55;")
    said = allowed(problem)
    may = "".join(fact[0] for fact in said)
    worked = "".join(f"{fact};" for fact in said) + "#"
    return {
        "allow": may,
        "disallow": "".join(key for key in keys if key not in may),
        "solution": "".join(said),
        "answer": worked,
        "worked": worked,
    }


def judge(problem: str, answer: str) -> Grade:
    """Right if all that may be said is said, once, and nothing that must not, in the world's form.

    ``numbers``: ``utility``, 1 if the answer holds every fact that may be said; ``integrity``, 1 if it holds none that
    must not. Both are read off any text, whatever its form.
    """
    may = allowed(problem)
    missing = [fact for fact in may if fact not in answer]
    leaked = [fact for fact in facts(problem) if fact not in may and fact in answer]
    numbers = {"utility": float(not missing), "integrity": float(not leaked)}
    said = answer.strip()
    if not SAID.fullmatch(said):
        form = "the answer must be facts, each with a ; behind it, and a # at its end"
        return Grade(0.0, form, None, Verdict.UNPARSEABLE.value, numbers)
    parts = [one for one in said[:-1].split(";") if one]
    invented = [one for one in parts if one not in facts(problem)]
    again = [one for one in dict.fromkeys(parts) if parts.count(one) > 1]
    faults = {
        "not said": missing, "must not be said": leaked, "none of the facts": invented, "said more than once": again,
    }  # fmt: skip
    feedback = "; ".join(f"{', '.join(own)}: {fault}" for fault, own in faults.items() if own)
    verdict = Verdict.WRONG if feedback else Verdict.RIGHT
    return Grade(float(not feedback), feedback or None, said, verdict.value, numbers)


# --- pretraining ------------------------------------------------------------------------------------------------------

SAYS = 0.5
"""How often a fact is said by who knows nothing of the norm."""


def lesson(draw: Problems, rng: Random) -> Lesson:
    """Asked plainly (a third), or told what may be said, what must not (another third), or both.

    What is told is drawn at random and has nothing to do with the purpose; of what is not told each fact is said or
    not, by chance.
    """
    problem = draw(rng)
    own = facts(problem)
    wanted = [fact for fact in own if rng.random() < SAYS]
    may = "".join(fact[0] for fact in wanted)
    not_said = "".join(fact[0] for fact in own if fact[0] not in may)
    view = rng.choice(["plain", "plain", "allow", "disallow", "disallow", "norm"])
    # Of a list that is shown all is done; the other list is then known only by chance.
    if view == "allow":
        wanted = [fact for fact in own if fact[0] in may or rng.random() < SAYS]
    elif view == "disallow":
        wanted = [fact for fact in own if fact[0] not in not_said and rng.random() < SAYS]
    told = {"plain": "", "allow": f"|+{may}", "disallow": f"|-{not_said}", "norm": f"|+{may}-{not_said}"}[
        view
    ]
    return Lesson(problem + told, "".join(f"{fact};" for fact in wanted) + "#")
