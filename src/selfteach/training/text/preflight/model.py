"""What the model makes of ids, what of it trains, and whether there is room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from selfteach.errors import UserError, exhausted
from selfteach.outside import with_type
from selfteach.policy.coverage import PREFIX, coverage
from selfteach.policy.head import check_head, output_head
from selfteach.policy.loading import Policy, bare
from selfteach.policy.lora import kind
from selfteach.policy.renderer import control_tokens
from selfteach.policy.scorer import LocalScorer
from selfteach.recipes.tools import Prompt
from selfteach.roles.weights import External
from selfteach.training.text.batch import head_of
from selfteach.training.text.preflight.check import Check, some
from selfteach.training.text.preflight.words import PROBE

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner

NOTABLE = 0.01
"""From this share of the weights between embeddings and head on, matrices without an adapter are worth a warning."""
NAMED = 12
"""So many kinds are listed by name."""


def vocabulary_checks(run: TextLearner, prompts: Sequence[Prompt]) -> Iterator[Check]:
    """Of every model that reads ids: those that are trained, and other ones that teach."""
    fed = {token for one in prompts for token in one.prompt_ids}
    for name in run.recipe.trained:
        title = "" if len(run.recipe.trained) == 1 else f"{name}: "
        yield vocabulary_check(f"{title}vocabulary", run.models.policies[name], fed)
    for name, teacher in run.recipe.others.items():
        if isinstance(teacher.weights, External):
            yield vocabulary_check(f"{name}: vocabulary", run.models.weights.policy_of(teacher.weights), fed)


def vocabulary_check(name: str, policy: Policy, fed: set[int]) -> Check:
    """The model must have a row for every id that text, template or padding can bring.

    Special tokens beyond its rows are borne where nothing uses them: text cannot spell them.
    """
    tokenizer, renderer = policy.tokenizer, policy.renderer
    network: Any = bare(policy.model)
    rows: int = min(
        one.weight.shape[0] for one in (network.get_input_embeddings(), network.get_output_embeddings())
    )
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    used = {renderer.pad_id, *renderer.stop_ids, tokenizer.bos_token_id, *fed}
    special = control_tokens(tokenizer).keys()
    idle = {t for t, n in beyond.items() if n not in used and t in special and t not in renderer.template}
    missing = [f"{t!r} is {n}" for t, n in beyond.items() if t not in idle]
    width = f"the tokenizer has {renderer.vocabulary} ids, the model's matrices {rows} rows"
    if missing:
        return Check(
            name,
            False,
            f"{width} (0 to {rows - 1}): {some(missing)}; use the tokenizer that belongs to the model, or save "
            "the model with its embeddings resized (resize_token_embeddings)",
        )
    unused = f": {some(sorted(map(repr, beyond)))} without a row, used by nothing" if beyond else ""
    return Check(name, True, width + unused, warns=bool(beyond))


def head_check(title: str, policy: Policy) -> Check:
    """Hidden states × head must be the model's own logits. UserError where they are not."""
    head = output_head(policy.model, policy.vocabulary)
    ids = policy.tokenizer.encode(PROBE, add_special_tokens=False)[:32] or [0, 0]
    try:
        check_head(policy.model, head, ids)
    except UserError:
        raise
    except Exception as problem:  # whatever a model's own forward pass may raise
        if exhausted(problem) is not None:
            raise
        advice = "name other modules in --lora-targets" if policy.adapted else "use another model"
        raise UserError(
            f"preflight: {type(bare(policy.model)).__name__} does not run on a probe text ({with_type(problem)}): "
            f"{advice}"
        ) from problem
    return Check(f"{title}output head", True, "hidden states × head give the model's own logits")


def weights_check(title: str, policy: Policy) -> Check:
    """How many weights train, and which kinds of matrices an adapter leaves as they are."""
    seen = coverage(policy)
    told = f"{seen.trained:,} of {seen.total:,} weights train ({seen.share:.2%})"
    if not policy.adapted:
        return Check(f"{title}weights", True, told)
    on = [f"{one.name} ({one.matrices})" for one in seen.kinds if one.adapted]
    off = [f"{one.name} ({one.matrices}, {share:.1%})" for one, share in seen.left_out()]
    rest = [*off, "norms, biases, embeddings and head"]
    told += f": adapters on {some(on, NAMED)}; none on {some(rest, NAMED + 1)}"
    left = seen.left_out(NOTABLE)
    if left:
        told += (
            f"; what is left out holds {sum(share for _, share in left):.1%} of the matrices (--lora-targets)"
        )
    return Check(f"{title}weights", True, told, warns=bool(left))


def forget_gradients(policy: Policy) -> None:
    for one in policy.trainable().values():
        one.grad = None


def gradient_check(title: str, policy: Policy, ids: Sequence[int]) -> Check:
    """A loss must reach every kind of weights that trains: some modules read a layer's weight past its adapter."""
    few = list(ids[:16])
    states = LocalScorer().states(policy, [few], [few])
    log_prob = head_of(policy).logits(states).log_softmax(-1)[:, few[0]].sum()
    if log_prob.requires_grad:
        log_prob.backward()
    parameters = policy.trainable()
    reached = {name for name, one in parameters.items() if one.grad is not None}
    forget_gradients(policy)
    kinds = {plain(name) for name in parameters}
    silent = sorted(kinds - {plain(name) for name in reached})
    if not silent:
        return Check(f"{title}gradient", True, f"a loss reaches all {len(kinds)} kinds of weights that train")
    told = f"no gradient reaches {some(silent)}: "
    advice = "leave them out of --lora-targets" if policy.adapted else "they stay as they are"
    return Check(f"{title}gradient", len(silent) < len(kinds), told + advice, warns=True)


def plain(name: str) -> str:
    """A trained parameter's name without its layer's number and what PEFT adds."""
    return kind(name.removeprefix(PREFIX).replace(".default", "")).removesuffix(".weight")
