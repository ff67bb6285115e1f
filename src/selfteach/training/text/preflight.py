"""The checks before step 1. Each would have caught a bug that somebody published (docs/preflight.md).

A run whose teacher is misaligned, blind or identical to the student trains all the same, on noise or on nothing.
So a few examples go through the real path first, and a check that fails stops the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psutil
import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.errors import UserError
from selfteach.objective.batch import STUDENT
from selfteach.objective.positions import Quantity
from selfteach.objective.record import CHUNK_BYTES
from selfteach.policy.head import check_head, output_head
from selfteach.policy.loading import Policy
from selfteach.policy.scorer import pack
from selfteach.recipes.knobs import knobs, with_knobs
from selfteach.roles.role import Role
from selfteach.roles.view import Plain
from selfteach.roles.weights import External, Random, Snapshot, Weights
from selfteach.task.example import Example
from selfteach.task.trajectory import Trajectory
from selfteach.training.text.batching import Batching
from selfteach.training.text.contexts import Context
from selfteach.training.text.metrics import gap

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner

PROBE = "Question 7: what is (3 + 4) × 2? Answer: 14.\nNaïve café, ∑ → 東京."
PROBES = 4
PROBE_TOKENS = 48


@dataclass(frozen=True)
class Check:
    """One finding: ``ok`` False stops a run; ``detail`` says what was seen, with units."""

    name: str
    ok: bool
    detail: str


def preflight(run: TextLearner) -> list[Check]:
    """Run every check, show what they found, and refuse to train if one failed (UserError names it)."""
    checks = []
    for check in examined(run):
        run.progress.say(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}")
        checks.append(check)
    failed = [check for check in checks if not check.ok]
    if failed:
        raise UserError(f"preflight: {failed[0].name}: {failed[0].detail}")
    return checks


def examined(run: TextLearner) -> Iterator[Check]:
    """The checks one by one. Neither the random state nor the data position of the run moves."""
    chat = run.policy.renderer
    template = (
        "plain 'User: … Assistant:' (the tokenizer has none)" if chat.is_plain else "the tokenizer's own"
    )
    yield Check("chat template", True, run.config.loading.chat_template or template)
    yield thinking_check(run)
    yield head_check(run)
    yield memory_check(run)
    short = shortened(run)
    with aside(run):
        rollouts, kept = probe_rollouts(short)
    run.progress.say(f"the student sees\n{indented(chat.show(rollouts[0].prompt_ids))}")
    sound = True
    for name, teacher in run.recipe.teachers.items():
        for check in teacher_checks(run, name, teacher, rollouts):
            sound = sound and check.ok
            yield check
    if sound and kept:
        with aside(run):
            check = objective_check(short, rollouts)
        yield check
    elif sound:
        yield Check(
            "objective", True, "the recipe kept none of its short rollouts: its terms are not checked"
        )


@contextmanager
def aside(run: TextLearner) -> Iterator[None]:
    """What is sampled inside leaves the run's random state as it was."""
    devices = [run.policy.model.device] if run.policy.model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        yield


def shortened(run: TextLearner) -> TextLearner:
    """The same learner with short answers, few of each prompt, tried once, that leaves data and stores alone."""
    r, small = run.recipe.rollouts, {"attempts": 1}
    small |= {"max_tokens": min(PROBE_TOKENS, r.max_tokens), "per_prompt": min(2, r.per_prompt)}
    own = knobs(run.recipe)
    if "reason_tokens" in own:
        small["reason_tokens"] = min(PROBE_TOKENS, own["reason_tokens"])
    recipe = with_knobs(run.recipe, {name: value for name, value in small.items() if name in own})
    short = copy(run)
    short.now = replace(run.now, recipe=recipe)
    short.batching = Batching(short.now, run.models)
    short.writing = run.writing.aside(short.now, short.batching)
    return short


def probe_rollouts(short: TextLearner) -> tuple[list[Trajectory], bool]:
    """A few rollouts written as the recipe writes them, and True; the student's own and False if it kept none."""
    prompts = short.writing.prompts.take(PROBES)
    written = short.recipe.rollout(short.writing.tools(0), prompts, 0)
    kept = bool(written)
    if not kept:
        short.progress.say(
            f"the recipe kept none of its {len(prompts)} short rollouts; the student's are looked at"
        )
        written = short.writing.tools(0).sample(prompts)
    return short.writing.judged(written), kept


# --- the model and the machine ----------------------------------------------------------------------------------


def thinking_check(run: TextLearner) -> Check:
    """Say which thinking flags are set, and that a template without the switch ignores them."""
    flags = {"student": run.recipe.student_thinking}
    flags |= {name: teacher.thinking for name, teacher in run.recipe.teachers.items()}
    wanted = ", ".join(f"{role} {flag}" for role, flag in flags.items() if flag is not None)
    if not wanted:
        return Check("thinking", True, "no flag set")
    knows = run.policy.renderer.knows_thinking
    return Check("thinking", True, wanted if knows else f"{wanted}, but the chat template has no such switch")


def head_check(run: TextLearner) -> Check:
    head = output_head(run.policy.model, run.policy.vocabulary)
    check_head(
        run.policy.model,
        head,
        run.policy.renderer.tokenizer.encode(PROBE, add_special_tokens=False)[:32] or [0, 0],
    )
    return Check("output head", True, "hidden states × head give the model's own logits")


def memory_check(run: TextLearner) -> Check:
    """Weights, gradients, Adam's two moments, copies of teachers and one chunk of logits against what is free."""
    trainable = sum(p.nbytes for one in run.models.policies.values() for p in one.trainable().values())
    held, copies = run.models.weights.copies, run.models.weights.copies_to_come
    to_come = trainable * (3 + copies) + 2 * CHUNK_BYTES
    device = run.policy.model.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    detail = (
        f"{to_come / 2**30:.2f} GiB still to come for gradients, optimizer, {copies} copies of weights besides "
        f"{held} already held, and a chunk of logits, {free / 2**30:.2f} GiB free (activations not counted)"
    )
    advice = "; use LoRA (--lora-rank 64; --precision bfloat16 halves its base) or a smaller model"
    return Check("memory", to_come < free, detail if to_come < free else detail + advice)


def objective_check(run: TextLearner, rollouts: Sequence[Trajectory]) -> Check:
    """The recipe's terms on these rollouts: each must be given by the roles what it reads of them."""
    batch = run.batching.of(rollouts, run.recipe.active(0), 0, alone=True)
    try:
        with torch.no_grad():
            terms = list(run.recipe.summands(batch.statistics(record=run.recipe.per_record is not None)))
    except ValueError as problem:
        return Check("objective", False, str(problem))
    for term in terms:
        for role, signal in term.reads.items():
            given = run.recipe.roles[role].signal
            if (signal, given) == ("full", "sampled"):
                return Check(
                    "objective",
                    False,
                    f"term {term.name} reads the whole distribution of {role!r}, {SAMPLED}",
                )
    return Check("objective", True, f"terms {', '.join(term.name for term in terms) or 'none'}")


SAMPLED = "which hands over the sampled tokens' log-probs alone"


# --- each teacher -----------------------------------------------------------------------------------------------


def teacher_checks(
    run: TextLearner, name: str, teacher: Role, rollouts: Sequence[Trajectory]
) -> Iterator[Check]:
    policy = run.models.weights.policy_of(teacher.weights)
    short = replace(teacher, reason_first=None)
    if policy is not run.policy:
        yield tokenizer_check(name, run.policy, policy)
    seen = run.batching.reading.context(short, rollouts)
    if not any(seen.available):
        yield unseen_check(name, teacher, seen)
        return
    shown = next(ids for ids in seen.prompts if ids is not None)
    run.progress.say(f"{name} sees\n{indented(run.policy.renderer.show(shown))}")
    yield alignment_check(run, name, rollouts, seen)
    yield equality_check(run, name, teacher.weights, rollouts)
    yield privilege_check(run, name, short, rollouts, seen)


def unseen_check(name: str, teacher: Role, seen: Context) -> Check:
    """A private field that nobody has is a mistake; a right sibling or a marked span may simply not have come yet."""
    view = teacher.view
    if not view.fields:
        return Check(f"{name}: view", True, f"{view.name} waits for how answers turn out; not checked")
    return Check(
        f"{name}: view",
        False,
        f"view {view.name} has nothing to show of the first {len(seen.prompts)} examples ({seen.no_privilege} without "
        f"{', '.join(view.fields)}, {seen.too_long} too long); choose another --view",
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
    return Check(
        f"{name}: tokenizer", not problems, "; ".join(problems) or "EOS, width and a probe text agree"
    )


def alignment_check(run: TextLearner, name: str, rollouts: Sequence[Trajectory], seen: Context) -> Check:
    """Under both views the scored places must be followed by the very same response ids."""
    pad, ids = run.policy.renderer.pad_id, [one.ids for one in rollouts]
    prompts = [c if c is not None else one.prompt_ids for c, one in zip(seen.prompts, rollouts, strict=True)]
    for packed in (pack([one.prompt_ids for one in rollouts], ids, pad), pack(prompts, ids, pad)):
        followed = packed.input_ids.gather(1, (packed.index + 1).clamp(max=packed.input_ids.shape[1] - 1))
        if not torch.equal(followed[packed.mask], packed.ids[packed.mask]):
            return Check(
                f"{name}: alignment", False, "the teacher scores other tokens than the student wrote"
            )
    return Check(f"{name}: alignment", True, "the same response ids stand behind both prompts")


def equality_check(run: TextLearner, name: str, weights: Weights, rollouts: Sequence[Trajectory]) -> Check:
    """Equal weights under the student's own prompt must give divergence 0, or the two paths differ."""
    if isinstance(weights, External | Random | Snapshot):
        return Check(f"{name}: equality", True, "other weights from the start: not expected to agree")
    own = Context([one.prompt_ids for one in rollouts])
    worst = float(divergences(run, name, rollouts, own).max())
    bound = 1e-2 if run.config.loading.precision != "float32" else 1e-4
    return Check(
        f"{name}: equality", worst <= bound, f"divergence {worst:.1e} nats when it sees what the student sees"
    )


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


def divergences(
    run: TextLearner, name: str, rollouts: Sequence[Trajectory], seen: Context
) -> Float[Tensor, "n T"]:
    """[n, T] KL(role‖student) in nats of this process's rows, 0 where nothing was scored."""
    temperature = run.recipe.temperature
    return measured(
        run, name, rollouts, seen, Quantity(lambda at: gap(at, name, temperature), (STUDENT, name))
    )


def log_probs(
    run: TextLearner, name: str, rollouts: Sequence[Trajectory], seen: Context
) -> Float[Tensor, "n T"]:
    """[n, T] the role's log-prob (nats) of each response token of this process's rows."""
    return measured(run, name, rollouts, seen, Quantity(lambda at: at.sampled(name), (name,)))


@torch.no_grad()
def measured(
    run: TextLearner, name: str, rollouts: Sequence[Trajectory], seen: Context, wanted: Quantity
) -> Float[Tensor, "n T"]:
    # Every process checks its own rollouts: one may have less to check than another.
    scoring = run.batching.scoring(rollouts, {name: seen}, alone=True)
    column = scoring.measure({"wanted": wanted})["wanted"]
    # 0 where the role scored nothing; a NaN that it gave stays one, and fails the check.
    column = torch.where(scoring.columns.seen((name,)), column, 0.0)
    return column


def indented(text: str, most: int = 1200) -> str:
    shown = (
        text
        if len(text) <= most
        else f"{text[: most // 2]} … {len(text) - most} characters … {text[-most // 2 :]}"
    )
    return "\n".join(f"    {line}" for line in shown.splitlines())
