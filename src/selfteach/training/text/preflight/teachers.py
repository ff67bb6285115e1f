"""Whether each teacher sees what it should, of the same tokens, with the same weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from selfteach.policy.economy import economy_of
from selfteach.policy.loading import Policy, context_window
from selfteach.policy.passes import row_of
from selfteach.recipes import knobs
from selfteach.roles.role import Role
from selfteach.roles.told import Told
from selfteach.roles.view import Plain
from selfteach.roles.weights import Weights
from selfteach.task.example import Example, is_graded
from selfteach.task.trajectory import Trajectory
from selfteach.training.text.contexts import Context
from selfteach.training.text.preflight.check import Check, indented
from selfteach.training.text.preflight.probing import divergences, log_probs
from selfteach.training.text.preflight.served import served_checks
from selfteach.training.text.preflight.words import PROBE, messages_check, unknown_check
from selfteach.training.text.teachers.served import ServedTeacher

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner


def teacher_checks(
    run: TextLearner, name: str, teacher: Role, rollouts: Sequence[Trajectory]
) -> Iterator[Check]:
    policy = run.models.weights.policy_of(teacher.weights)
    short = replace(teacher, reason_first=None)
    reading = run.batching.reading
    seen = reading.context(short, rollouts)
    if not any(seen.available):
        has = {known for one in rollouts for known in one.example.private}
        views = "view" in knobs(run.recipe)
        yield unseen_check(name, teacher, seen, has, graded=is_graded(run.task), views=views)
        return
    shown = next(ids for ids in seen.prompts if ids is not None)
    run.progress.say(f"{name} sees\n{indented(run.policy.renderer.show(shown))}")
    told = reading.messages(short, rollouts)
    known = [(m, ids) for m, ids in zip(told, seen.prompts, strict=True) if m is not None]
    yield messages_check(run, name, [m for m, _ in known], [ids for _, ids in known])
    yield from unknown_check(run, name, seen.prompts)
    if run.recipe.generates:
        yield from room_check(name, teacher, policy, seen, run.recipe.rollouts.max_tokens)
    yield alignment_check(name, (run.policy, policy), rollouts, seen)
    if (handed := run.models.handed) is not None and name in handed.roles:
        if isinstance(handed, ServedTeacher):
            yield from served_checks(run, handed, name, teacher, rollouts, seen)
        else:
            yield Check(f"{name}: cache", True, handed.describe(name))
        return
    if run.config.loading.teacher_dtype is not None:
        yield numbers_check(run, name, teacher.weights)
    yield equality_check(run, name, teacher.weights, rollouts)
    yield privilege_check(run, name, short, rollouts, seen)


def unseen_check(
    name: str,
    teacher: Role,
    seen: Context,
    private: Collection[str] = (),
    *,
    graded: bool = True,
    views: bool = True,
) -> Check:
    """A private field that nobody has is a mistake; a right sibling or a marked span may simply not have come yet.
    ``views``: the recipe lets the user choose what the teacher sees."""
    view = teacher.view
    if isinstance(view, Told):
        return Check(f"{name}: view", True, f"{view.name} waits for what the rollout finds out; not checked")
    if not view.fields and not graded:
        told = f"{view.name} waits for how answers turn out, but nothing is graded"
        return Check(f"{name}: view", False, f"{told}: give rows with answers, or --reward FILE:NAME")
    if not view.fields:
        return Check(f"{name}: view", True, f"{view.name} waits for how answers turn out; not checked")
    has = next((known for known in ("solution", "answer") if known in private), None)
    advice = "choose another --view" if has is None else f"the rows have {has!r}: --view {has}"
    if not views:
        advice = f"give rows that have {', '.join(view.fields)}, or take another method"
    if seen.too_long > seen.no_privilege:
        advice = (
            "with what is written behind it that exceeds the model's window: lower --max-tokens, or show less"
        )
    return Check(
        f"{name}: view",
        False,
        f"view {view.name} has nothing to show of the first {len(seen.prompts)} examples ({seen.no_privilege} without "
        f"{', '.join(view.fields)}, {seen.too_long} too long); {advice}",
    )


def room_check(name: str, teacher: Role, policy: Policy, seen: Context, longest: int) -> Iterator[Check]:
    """A warning where an answer as long as may be does not fit behind a role's prompts: it has no opinion of it."""
    window = context_window(policy.model)
    known = [len(ids) for ids in seen.prompts if ids is not None]
    full = sum(length + longest > window for length in known)
    if full:
        room = max(0, window - max(known))
        less = "" if isinstance(teacher.view, Plain) else ", or show it less (--view)"
        yield Check(
            f"{name}: room",
            True,
            f"behind {full} of {len(known)} prompts an answer of {longest} tokens exceeds the window of {window}; what "
            f"is longer than it holds is not scored: --max-tokens {room} fits behind these{less}",
            warns=True,
        )


def tokenizer_check(name: str, student: Policy, teacher: Policy) -> Check:
    """EOS, vocabulary width and a probe text must agree: ids of one vocabulary mean nothing in another."""
    ours, theirs = (p.renderer.tokenizer.encode(PROBE, add_special_tokens=False) for p in (student, teacher))
    problems = []
    if ours != theirs:
        problems.append("a probe text is tokenized differently")
    if student.vocabulary != teacher.vocabulary:
        problems.append(f"vocabulary widths are {student.vocabulary} and {teacher.vocabulary}")
    if student.renderer.tokenizer.eos_token_id != teacher.renderer.tokenizer.eos_token_id:
        eos = (student.renderer.tokenizer.eos_token_id, teacher.renderer.tokenizer.eos_token_id)
        problems.append(f"EOS ids are {eos[0]} and {eos[1]}")
    advice = "; token ids are shared: name a model of the student's tokenizer, or give its text as the data's answers"
    said = "; ".join(problems) + advice if problems else "EOS, width and a probe text agree"
    return Check(f"{name}: tokenizer", not problems, said)


def alignment_check(
    name: str, readers: tuple[Policy, Policy], rollouts: Sequence[Trajectory], seen: Context
) -> Check:
    """As student and teacher lay rows out to score them, under both views every response id must be predicted where the
    id before it was read."""
    some = [(one, c or one.prompt_ids) for one, c in zip(rollouts, seen.prompts, strict=True) if one.ids]
    ids = [one.ids for one, _ in some]
    views = ([one.prompt_ids for one, _ in some], [context for _, context in some])
    for policy, contexts in zip(readers, views, strict=True):
        rows = [row_of(context, response) for context, response in zip(contexts, ids, strict=True)]
        for held, laid in economy_of(policy.model).laid(rows, policy.renderer.pad_id) if rows else []:
            before = [token for i in held for token in (contexts[i][-1], *ids[i][:-1])]
            if laid.read().tolist() != before:
                return Check(
                    f"{name}: alignment", False, "the teacher scores other tokens than the student wrote"
                )
    return Check(f"{name}: alignment", True, "the same response ids stand behind both prompts")


def equality_check(run: TextLearner, name: str, weights: Weights, rollouts: Sequence[Trajectory]) -> Check:
    """Equal weights under the student's own prompt must give divergence 0, or the two paths differ."""
    if not run.models.weights.starts_as(run.recipe.student.weights, weights):
        return Check(f"{name}: equality", True, "other weights from the start: not expected to agree")
    own = Context([one.prompt_ids for one in rollouts])
    worst = float(divergences(run, name, rollouts, own).max())
    bound = 1e-4 if numbers_of(run) == {"float32"} else 1e-2
    return Check(
        f"{name}: equality", worst <= bound, f"divergence {worst:.1e} nats when it sees what the student sees"
    )


def numbers_of(run: TextLearner) -> set[str]:
    """What student and teachers compute in."""
    loading = run.config.loading
    return {loading.precision, loading.teacher_dtype or loading.precision}


def numbers_check(run: TextLearner, name: str, weights: Weights) -> Check:
    """Which numbers teach: what the role's weights are stored in, and what they are computed in."""
    with run.models.weights.scoring(weights) as policy:
        stored = str(next(policy.model.parameters()).dtype).removeprefix("torch.")
        computed = stored if policy.precision == "float32" else "bfloat16"
    return Check(f"{name}: numbers", True, f"weights in {stored}, computed in {computed}, logits in float32")


def privilege_check(
    run: TextLearner, name: str, teacher: Role, rollouts: Sequence[Trajectory], seen: Context
) -> Check:
    """Another privilege must change the role's log-probs, or the privilege does not reach it."""
    if isinstance(teacher.view, Plain):
        return Check(f"{name}: privilege", True, "none: it sees what the student sees")
    if differ(rollouts, teacher.view.fields):
        swapped = [
            exchanged(one, rollouts[i - 1].example, teacher.view.fields) for i, one in enumerate(rollouts)
        ]
        other = run.batching.reading.context(teacher, swapped)
    else:
        # Nothing to exchange: no field, or all examples share one privilege (a rule). Then none at all is the other.
        other = Context([one.prompt_ids for one in rollouts])
    changed = [
        i for i, (a, b) in enumerate(zip(seen.prompts, other.prompts, strict=True)) if a and b and a != b
    ]
    if not changed and not teacher.view.fields:
        told = f"{teacher.view.name} waits for how answers turn out; not checked"
        return Check(f"{name}: privilege", True, told)
    if not changed:
        return Check(
            f"{name}: privilege",
            False,
            "the rendered prompt does not change with it: check the view's template",
        )
    before, after = (log_probs(run, name, rollouts, c) for c in (seen, other))
    moved = float((before - after)[changed].abs().max())
    return Check(
        f"{name}: privilege",
        moved > 1e-4,
        f"another privilege moves its log-probs by up to {moved:.2g} nats"
        + ("" if moved > 1e-4 else ": the privilege does not reach the teacher"),
    )


def differ(rollouts: Sequence[Trajectory], fields: Sequence[str]) -> bool:
    """Whether the examples have different values in any of the private fields."""
    return any(len({one.example.private.get(name) for one in rollouts}) > 1 for name in fields)


def exchanged(one: Trajectory, other: Example, fields: Sequence[str]) -> Trajectory:
    """The rollout with another example's privilege in the named fields."""
    private = {**one.example.private, **{f: other.private[f] for f in fields if f in other.private}}
    return replace(one, example=replace(one.example, private=private))
