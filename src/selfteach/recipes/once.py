"""Texts that a model writes once a run, in each process, and that are read from its store ever after."""

from __future__ import annotations

from collections.abc import Mapping

from selfteach.checks import require
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.view import View


def written_once(
    tools: Tools,
    store: str,
    asked: Mapping[str, tuple[Prompt, View]],
    *,
    role: str = "student",
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
) -> dict[str, str]:
    """What ``role`` answers to each prompt as its view shows it, by key: from the notes of the run's ``store`` where it
    has the key, else written now and kept. A store is its process's own: of several each writes what it meets.

    UserError where a view has nothing to show, or leaves no room.
    """
    notes = tools.store(store).notes
    fresh: dict[str, Prompt] = {}
    for key, (one, view) in asked.items():
        if key not in notes:
            prompt = tools.prompt(one, view, max_tokens)
            require(
                prompt is not None,
                f"example {one.example.key}: view {view.name} has nothing to show, or leaves no room for an answer",
            )
            if prompt is not None:
                fresh[key] = prompt
    said = tools.sample(
        list(fresh.values()), role=role, max_tokens=max_tokens, temperature=temperature, top_p=top_p
    )
    notes.update({key: one.text for key, one in zip(fresh, said, strict=True)})
    return {key: str(notes[key]) for key in asked}
