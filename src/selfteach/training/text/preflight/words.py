"""What becomes of a conversation before the model sees it: template, end of turn, every message's words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from selfteach.policy.wording import left_out, quoted
from selfteach.recipes.tools import Prompt
from selfteach.task.example import Message
from selfteach.training.text.preflight.check import Check

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner

PROBE = "Question 7: what is (3 + 4) × 2? Answer: 14.\nNaïve café, ∑ → 東京."


def template_check(run: TextLearner) -> Check:
    """Which chat template is used."""
    plain = run.policy.renderer.is_plain
    own = "plain 'User: … Assistant:' (the tokenizer has none)" if plain else "the tokenizer's own"
    return Check("chat template", True, run.config.loading.chat_template or own)


def thinking_check(run: TextLearner) -> Check:
    """Say which thinking flags are set, and that a template without the switch ignores them."""
    flags = {"student": run.recipe.student_thinking}
    flags |= {name: teacher.thinking for name, teacher in run.recipe.teachers.items()}
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


def unknown_check(run: TextLearner, prompts: Sequence[Prompt]) -> Iterator[Check]:
    """A tokenizer that reads what it does not know as one and the same token loses it."""
    renderer = run.policy.renderer
    unknown = renderer.tokenizer.unk_token_id
    if unknown is None or unknown in renderer.stop_ids | {
        renderer.pad_id
    }:  # where it also means something else
        return
    ids = [token for one in prompts for token in one.prompt_ids]
    if lost := ids.count(unknown):
        told = f"{lost} of {len(ids)} tokens of the first prompts are {renderer.show([unknown])!r}"
        yield Check(
            "unknown tokens", True, f"{told}: the tokenizer does not know what is written there", warns=True
        )
