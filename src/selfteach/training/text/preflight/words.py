"""What becomes of a conversation before the model sees it: template, end of turn, every message's words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfteach.policy.wording import left_out, quoted
from selfteach.task.arena import MODELS, arena_model, open_world, resolve_model
from selfteach.task.example import Message
from selfteach.training.text.preflight.check import Check

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner

PROBE = "Question 7: what is (3 + 4) × 2? Answer: 14.\nNaïve café, ∑ → 東京."

WORLD_EXAMPLES = 200
"""Examples of an arena world that are looked at for the characters it is written in."""


def template_check(run: TextLearner) -> Check:
    """Which chat template is used."""
    plain = run.policy.renderer.is_plain
    own = "plain 'User: … Assistant:' (the tokenizer has none)" if plain else "the tokenizer's own"
    return Check("chat template", True, run.config.loading.chat_template or own)


def thinking_check(run: TextLearner) -> Check:
    """Say which thinking flags are set, and that a template without the switch ignores them."""
    flags = {"student": run.recipe.student_thinking}
    flags |= {name: teacher.thinking for name, teacher in run.recipe.others.items()}
    wanted = ", ".join(f"{role} {flag}" for role, flag in flags.items() if flag is not None)
    if not wanted:
        return Check("thinking", True, "no flag set")
    knows = run.policy.renderer.knows_thinking
    return Check("thinking", True, wanted if knows else f"{wanted}, but the chat template has no such switch")


def stops_check(run: TextLearner) -> Check:
    """Which tokens end an answer, and that the template ends a turn with one of them."""
    renderer = run.policy.renderer
    stops = ", ".join(f"{renderer.show([token])!r} ({token})" for token in sorted(renderer.stop_ids))
    end = renderer.end_of_turn
    if end is None:
        return Check(
            "stop tokens",
            True,
            f"{stops}; but the chat template ends the assistant's turn with no special token, so that a model taught "
            "by it may never stop: give another --chat-template, or the tokenizer the token that ends its turns",
            warns=True,
        )
    return Check("stop tokens", True, f"{stops}; the chat template ends a turn with {renderer.show([end])!r}")


def messages_check(
    run: TextLearner, reader: str, told: Sequence[Sequence[Message]], shown: Sequence[Sequence[int] | None]
) -> Check:
    """Every message's words must be in what its reader is shown, or the chat template leaves them out."""
    renderer = run.policy.renderer
    name = "messages" if reader == "student" else f"{reader}: messages"
    for messages, ids in zip(told, shown, strict=True):
        for lost in [] if ids is None else left_out(messages, renderer.show(ids), renderer):
            told_of = f"the chat template leaves out the {lost['role']} message ({quoted(lost)}): "
            advice = "give another --chat-template, or say it in the user's message (--prompt-template)"
            return Check(name, False, told_of + advice)
    roles = dict.fromkeys(message["role"] for messages in told for message in messages)
    return Check(name, True, f"all words of {', '.join(roles) or 'no one'} are in the prompts")


def unknown_check(run: TextLearner, reader: str, shown: Sequence[Sequence[int] | None]) -> Iterator[Check]:
    """What is lost where a tokenizer reads every character that it does not know as one and the same token, and where
    a model of the arena, which was taught its worlds' characters alone, is shown others."""
    renderer = run.policy.renderer
    title = "" if reader == "student" else f"{reader}: "
    ids = [token for one in shown for token in one or ()]
    unknown = renderer.tokenizer.unk_token_id
    # Where <unk> also ends a turn or pads, it means something else.
    if unknown is not None and unknown not in renderer.stop_ids | {renderer.pad_id} and ids.count(unknown):
        lost = ids.count(unknown)
        share = f"{lost} of {len(ids)} tokens ({lost / len(ids):.0%})"
        told = f"{share} of the first prompts are {renderer.show([unknown])!r}"
        yield Check(
            f"{title}unknown tokens",
            True,
            f"{told}: the tokenizer does not know what is written there; give a model whose tokenizer does",
            warns=True,
        )
    name = arena_model_of(run)
    if name is not None and run.task.name not in MODELS[name]:
        yield from arena_check(f"{title}characters", name, renderer.text(ids))


def arena_model_of(run: TextLearner) -> str | None:
    """The name of the arena's model that the run trains, if it is one."""
    loading = run.config.loading
    if run.config.network is not None or not loading.model:
        return None
    folder = Path(resolve_model(loading.model))
    return next((name for name in MODELS if folder == arena_model(name)), None)


def arena_check(name: str, model: str, text: str) -> Iterator[Check]:
    """Characters that no example of the model's own worlds has."""
    known = {one for world in MODELS[model] for one in characters_of(world)}
    read = [one for one in text if not one.isspace()]
    strange = [one for one in read if one not in known]
    if strange:
        first = "".join(dict.fromkeys(strange))[:8]
        yield Check(
            name,
            True,
            f"the arena's model {model} knows its own world's characters alone: {len(strange) / len(read):.0%} of "
            f"those in the first prompts are none of them ({first} …), so it cannot read these; give another --model, "
            f"or --task {MODELS[model][0]}",
            warns=True,
        )


def characters_of(world: str) -> set[str]:
    """The characters of a world's examples and of what its views say around them."""
    task = open_world(world)
    examples = [task.train(i) for i in range(WORLD_EXAMPLES)]
    texts = [text for one in examples for text in (one.problem, *one.private.values())]
    around = [re.sub(r"\{\w+\}", "", one) for one in task.wording.values()]
    return set("".join((*texts, *around)))


def evaluation_check(run: TextLearner) -> Iterator[Check]:
    """Every held-out prompt must leave room for an answer, or the evaluation before step 1 would fail."""
    settings, policy, recipe = run.config.evaluation, run.policy, run.recipe
    if run.problems_asked == 0:
        return
    longest = settings.eval_max_tokens or recipe.rollouts.max_tokens
    for task in (run.task, *run.also):
        asked = [
            len(policy.renderer.prompt_ids(one.prompt, recipe.student_thinking))
            for one in task.held_out(settings.eval_problems)
        ]
        lengths = [prompt for prompt in asked if prompt + longest > policy.window]
        if lengths:
            yield Check(
                "evaluation",
                False,
                f"{len(lengths)} of {len(asked)} held-out prompts of task {task.name} leave no room for an answer: the "
                f"longest has {max(lengths)} tokens, and {longest} more exceed the model's window of {policy.window}; "
                "lower --eval-max-tokens, or leave such rows out (--max-chars)",
            )
            return
    yield Check(
        "evaluation", True, f"{settings.eval_problems} problems asked for, {longest} tokens an answer at most"
    )
