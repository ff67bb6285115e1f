"""Demonstrations of other problems and wrong ones of one's own, kept in the store "demonstrations" (UniSD)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Any, Literal

from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.told import Told

KEPT = 512
"""How many examples are remembered, the latest."""
DECEIVE = Told(
    "{problem}\n\nThe right answer is {answer}. Write a solution that looks right and ends in another answer, "
    "as somebody who is mistaken would.",
    "deceive",
)
INDUCE = Told("{examples}\n\nWrite one instruction that says how problems of this kind are solved.", "induce")
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


def listed(some: Sequence[dict[str, Any]]) -> str:
    """Several demonstrations as one text."""
    return "\n\n".join(f"{one['problem']}\n{one['text']}" for one in some)


def beside(
    tools: Tools, prompts: Sequence[Prompt], field: str, names: Sequence[str], n: int, kind: Kind
) -> list[Prompt]:
    """The prompts told, under each name, ``n`` demonstrations of other problems: of any ("random"), of those most
    like them ("retrieved"), or ("induced") an instruction that the student wrote of five, once for each name. Nothing
    while no other problem is known."""
    known = remembered(tools, prompts, field)
    texts = _instructions(tools, prompts, known, names) if kind == "induced" else {}

    def around(one: Prompt) -> dict[str, str]:
        pool = [each for each in known if each["key"] != one.example.key]
        if kind == "retrieved":
            pool = nearest(one.example.problem, pool, n * len(names))
        chance = tools.random(f"beside {one.example.key}")
        return texts or {name: listed(chance.sample(pool, min(n, len(pool)))) for name in names}

    return [one.told(**around(one)) for one in prompts]


def _instructions(
    tools: Tools, prompts: Sequence[Prompt], known: Sequence[dict[str, Any]], names: Sequence[str]
) -> dict[str, str]:
    notes, chance = tools.store("demonstrations").notes, tools.random("induce")
    if "instructions" not in notes and prompts:
        shown = [listed(chance.sample(list(known), min(5, len(known)))) for _ in names]
        asked = [tools.prompt(prompts[0].told(examples=text), INDUCE) for text in shown]
        written = tools.sample([one for one in asked if one], max_tokens=256, temperature=0.7)
        notes["instructions"] = [one.text for one in written]
    return dict(zip(names, [*notes.get("instructions", []), *[""] * len(names)], strict=False))


def misled(tools: Tools, prompts: Sequence[Prompt], n: int, retries: int, max_tokens: int) -> list[Prompt]:
    """The prompts told, as ``wrong``, one of ``n`` wrong solutions that the student wrote of the problem, once; those
    that turn out right are written anew ``retries`` times. Empty where none is wrong, or the answer is not known."""
    notes, chance = tools.store("demonstrations").notes, tools.random("misled")
    kept: dict[str, list[str]] = notes.setdefault("wrong", {})
    for _ in range(1 + retries):
        short = [one for one in prompts if len(kept.get(one.example.key, [])) < n]
        asked = [each for one in short if (each := tools.prompt(one, DECEIVE))]
        written = tools.grade(tools.sample(asked, n, max_tokens=max_tokens, temperature=0.7)) if asked else []
        for wrong in written:
            if not wrong.right and wrong.text.strip():
                kept.setdefault(wrong.example.key, []).append(wrong.text)
    notes["wrong"] = dict(list(kept.items())[-KEPT:])
    return [one.told(wrong=_one_of(kept.get(one.example.key, []), chance)) for one in prompts]


def _one_of(texts: Sequence[str], chance: Random) -> str:
    return chance.choice(texts) if texts else ""
