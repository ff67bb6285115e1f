"""Demonstrations of other problems and wrong ones of one's own, kept in the store "demonstrations" (UniSD).

A store is its process's own: of several each remembers what it has met. Draws follow from example and step alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.told import Told
from selfteach.task.outcome import outcome

KEPT = 512
"""How many examples are remembered, the latest."""
DECEIVE = Told(
    "{problem}\n\nThe right answer is {answer}. Write a solution that looks right and ends in another answer, "
    "as somebody who is mistaken would.",
    "deceive",
)
INDUCE = Told("{examples}\n\nWrite one instruction that says how problems of this kind are solved.", "induce")
INDUCED_TOKENS, SHOWN = 256, 5
"""Longest instruction, and how many demonstrations it is made of."""
Kind = Literal["retrieved", "random", "induced"]
_WORD = re.compile(r"\w+|[^\w\s]")


def remembered(tools: Tools, prompts: Sequence[Prompt], field: str) -> list[dict[str, Any]]:
    """The demonstrations seen so far, those of these prompts included: ``key``, ``problem`` and ``text``, the private
    field's."""
    notes = tools.store("demonstrations").notes
    known = {one["key"]: one for one in notes.get("seen", [])}
    for one in (prompt.example for prompt in prompts):
        if text := one.private.get(field):
            known[one.key] = {"key": one.key, "problem": one.problem, "text": text}
    notes["seen"] = list(known.values())[-KEPT:]
    return list(notes["seen"])


def nearest(problem: str, pool: Sequence[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """The ``n`` whose problems share most words and signs with this one (intersection over union), of equals the
    earlier."""
    own = set(_WORD.findall(problem))

    def likeness(other: dict[str, Any]) -> float:
        theirs = set(_WORD.findall(other["problem"]))
        return len(own & theirs) / max(1, len(own | theirs))

    return sorted(pool, key=likeness, reverse=True)[:n]


def joined(some: Sequence[dict[str, Any]]) -> str:
    """Several demonstrations as one text."""
    return "\n\n".join(f"{one['problem']}\n{one['text']}" for one in some)


def beside(
    tools: Tools, prompts: Sequence[Prompt], field: str, names: Sequence[str], n: int, kind: Kind
) -> list[Prompt]:
    """The prompts told, under each name, ``n`` demonstrations of other problems: of any ("random"), of those most
    like them ("retrieved"), or ("induced") an instruction that the student wrote of five, once for each name and
    process. Nothing while no other problem is known."""
    known = remembered(tools, prompts, field)
    texts = _instructions(tools, prompts, known, names) if kind == "induced" else {}

    def around(one: Prompt) -> dict[str, str]:
        pool = [each for each in known if each["key"] != one.example.key]
        if kind == "retrieved":
            pool = nearest(one.example.problem, pool, n * len(names))
        chance = tools.random(f"beside {one.example.key}", shared=True)
        return texts or {name: joined(chance.sample(pool, min(n, len(pool)))) for name in names}

    return [one.told(**around(one)) for one in prompts]


def _instructions(
    tools: Tools, prompts: Sequence[Prompt], known: Sequence[dict[str, Any]], names: Sequence[str]
) -> dict[str, str]:
    notes, chance = tools.store("demonstrations").notes, tools.random("induce", shared=True)
    if "instructions" not in notes and prompts:
        shown = [joined(chance.sample(list(known), min(SHOWN, len(known)))) for _ in names]
        asked = [tools.prompt(prompts[0].told(examples=text), INDUCE, INDUCED_TOKENS) for text in shown]
        written = tools.sample([one for one in asked if one], max_tokens=INDUCED_TOKENS, temperature=0.7)
        if written:
            notes["instructions"] = [one.text for one in written]
    return dict(zip(names, [*notes.get("instructions", []), *[""] * len(names)], strict=False))


def misled(tools: Tools, prompts: Sequence[Prompt], n: int, retries: int, max_tokens: int) -> list[Prompt]:
    """The prompts told, as ``wrong``, one of up to ``n`` wrong solutions that the student wrote of the problem, once a
    process; those that do not verify as wrong are written anew ``retries`` times. Empty where none does (what the
    verifier cannot read is not known to be wrong), or the answer is not known."""
    notes = tools.store("demonstrations").notes
    kept: dict[str, list[str]] = notes.setdefault("wrong", {})
    fresh = {one.example.key: one for one in prompts if one.example.key not in kept}
    asked = {key: each for key, one in fresh.items() if (each := tools.prompt(one, DECEIVE, max_tokens))}
    kept.update({key: [] for key in asked})  # asked once, whatever comes of it
    for _ in range(1 + retries):
        lacking = [(key, one) for key, one in asked.items() for _ in range(n - len(kept[key]))]
        if not lacking:
            break
        written = tools.sample([one for _, one in lacking], max_tokens=max_tokens, temperature=0.7)
        for (key, _), one in zip(lacking, tools.grade(written), strict=True):
            if outcome(one.grade, one.finished) == "wrong" and one.text.strip():
                kept[key].append(one.text)
    shown = [one.told(wrong=_one_of(tools, one.example.key, kept)) for one in prompts]
    notes["wrong"] = dict(list(kept.items())[-KEPT:])
    return shown


def _one_of(tools: Tools, key: str, kept: Mapping[str, Sequence[str]]) -> str:
    texts = kept.get(key)
    return tools.random(f"misled {key}", shared=True).choice(texts) if texts else ""
