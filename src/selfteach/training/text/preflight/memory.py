"""The memory that a run will have in use at its peak, term by term, before its first step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import psutil
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from selfteach.errors import less_memory
from selfteach.objective.positions import BLOCK_BYTES
from selfteach.objective.record import CHUNK_BYTES, CHUNK_BYTES_ON_CUDA
from selfteach.policy.loading import Policy, bare
from selfteach.policy.recomputing import Checkpointing, Products
from selfteach.policy.reordered import reordered_bytes
from selfteach.policy.room import FLOAT, depth_of, width_of
from selfteach.policy.scorer import LocalScorer
from selfteach.policy.sharding import local, whole
from selfteach.recipes.base import Recipe
from selfteach.recipes.tools import Prompt
from selfteach.roles.weights import External, Live, Weights
from selfteach.training.optimizers import state_bytes
from selfteach.training.text.preflight.check import Check
from selfteach.training.text.preflight.cost import StageWork, work_of_stages

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner

PAGE = 4096
"""Bytes that a machine maps at a time."""
MEASURED = 16
"""Tokens of the context and of the answer with which it is measured what a token keeps."""
STEP_COPIES = 2
"""Of the largest tensor, while AdamW divides by its second moment and numbers are looked at for being finite."""
LOSS_BLOCKS = 8
"""Arrays as large as a block of logits while its loss and gradient are taken (log-probs of both sides, and so on)."""


@dataclass(frozen=True)
class Stay:
    """Bytes that stay from step to step: in use ``now`` (the program, its libraries, weights, copies that are held),
    the optimizer's state, and copies of weights that training will add."""

    now: int
    optimizer: int
    copies: int


@dataclass(frozen=True)
class Pass:
    """Bytes that come and go within a step: while it samples, while teachers score, while the student's loss is taken
    and goes back, while the optimizer steps."""

    sampling: int
    teachers: int
    update: int
    step: int

    @property
    def largest(self) -> int:
        return max(self.sampling, self.teachers, self.update, self.step)

    @property
    def told(self) -> str:
        """The largest of them, and what the others are."""
        names = {
            "sampling": "sampling",
            "teachers": "teachers",
            "update": "the update",
            "step": "the optimizer's step",
        }
        first, *others = sorted(asdict(self).items(), key=lambda item: -item[1])
        rest = ", ".join(f"{names[name]} {size(count)}" for name, count in others)
        return f"{size(first[1])} for {names[first[0]]} ({rest})"


@dataclass(frozen=True)
class Prediction:
    """What stays, and what comes and goes in each stage."""

    stay: Stay
    of_stages: Sequence[Pass]

    @property
    def to_come(self) -> int:
        """Beyond what is in use now."""
        return self.stay.optimizer + self.stay.copies + self.widest.largest

    @property
    def widest(self) -> Pass:
        """The stage whose passes take most."""
        return max(self.of_stages, key=lambda one: one.largest)

    @property
    def peak(self) -> int:
        return self.stay.now + self.to_come

    def table(self) -> Mapping[str, int]:
        """Every term by name."""
        return {**asdict(self.stay), **asdict(self.widest)}


def memory_check(run: TextLearner, prompts: Sequence[Prompt]) -> Check:
    """What is still to come against what is free."""
    found, free = predicted(run, prompts), free_memory(run.policy.model.device)
    held, coming = run.models.weights.copies, run.models.weights.copies_to_come
    detail = (
        f"{size(found.peak)} at the peak, {size(found.stay.now)} of it in use now; still to come: "
        f"{size(found.stay.optimizer)} for the optimizer's state, {size(found.stay.copies)} for {coming} copies of "
        f"weights besides {held} held, and {found.widest.told}; {size(free)} free"
    )
    if found.to_come < free:
        return Check("memory", True, detail)
    still = found.stay.optimizer + found.stay.copies + gradient_bytes(run)
    advice = (
        "use LoRA (--lora-rank 64; --precision bfloat16 halves its base), --optim adafactor or a smaller model"
        if still >= free
        else less_memory("checking the run")
    )
    return Check("memory", False, f"{detail}; {advice}")


def size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def predicted(run: TextLearner, prompts: Sequence[Prompt]) -> Prediction:
    """Of a run whose answers are all as long as they may be."""
    contexts = teacher_contexts(run, prompts)
    return Prediction(stay(run), [pass_of(run, work, contexts) for work in work_of_stages(run, prompts)])


def stay(run: TextLearner) -> Stay:
    state = max(optimizer_bytes(run, recipe) for _, recipe in run.recipes)
    copies = run.models.weights.copies_to_come * weights_bytes(run, waiting=False)
    dtype = run.config.copied_in  # of a copy to sample from, which is not there yet
    sampler = 0 if dtype is None else sum(one.numel() for one in trainable(run)) * dtype.itemsize
    return Stay(in_use(run), state, copies + sampler)


def optimizer_bytes(run: TextLearner, recipe: Recipe) -> int:
    """State of a stage's optimizers."""
    return sum(
        state_bytes(spec.optimization.optim, map(local, run.models.policies[name].trainable().values()))
        for name, spec in recipe.trained.items()
    )


def trainable(run: TextLearner) -> list[nn.Parameter]:
    return [one for policy in run.models.policies.values() for one in policy.trainable().values()]


def gradient_bytes(run: TextLearner) -> int:
    return sum(local(one).nbytes for one in trainable(run))


def weights_bytes(run: TextLearner, *, waiting: bool) -> int:
    """Of a copy of all that is trained, what waits elsewhere (``waiting``), or what stands beside it: adapters do, and
    full weights where teachers are not offloaded."""
    offloaded = run.models.weights.offload is not None
    return sum(
        local(value).nbytes
        for policy in run.models.policies.values()
        if (offloaded and not policy.adapted) is waiting
        for value in policy.trainable().values()
    )


def in_use(run: TextLearner) -> int:
    """Bytes that the process has now, on the accelerator or else of the machine's memory; without those of weights that
    wait in files, which yield to whatever needs the room."""
    device = run.policy.model.device
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    for policy in run.models.policies.values():
        touch([local(one) for one in policy.model.parameters()])
    run.models.weights.release()
    return int(psutil.Process().memory_info().rss)


@torch.no_grad()
def touch(tensors: Iterable[Shaped[Tensor, "..."]]) -> None:
    """Weights are mapped from their file, a page when it is first read: have them all in memory."""
    for one in tensors:
        one.detach().reshape(-1)[:: PAGE // one.element_size()].sum()


def teacher_contexts(run: TextLearner, prompts: Sequence[Prompt]) -> Mapping[str, int]:
    """Tokens that each role reads before an answer, at most; the student's where its view waits for answers."""
    tools = run.writing.tools(0)
    blanks = [tools.started(one) for one in prompts]
    own = max(len(one.prompt_ids) for one in prompts)
    found = dict.fromkeys(run.recipe.teachers, own)
    for name, role in run.recipe.teachers.items():
        if not role.view.fields:
            continue
        seen = run.batching.reading.context(replace(role, reason_first=None), blanks).prompts
        found[name] = max([own, *(len(ids) for ids in seen if ids is not None)])
    return found


def pass_of(run: TextLearner, work: StageWork, contexts: Mapping[str, int]) -> Pass:
    states = kept_states(run, work)
    return Pass(
        sampling_bytes(run, work),
        states + teacher_bytes(run, work, contexts),
        states + update_bytes(run, work, contexts),
        states + step_bytes(run),
    )


def sampling_bytes(run: TextLearner, work: StageWork) -> int:
    """The largest batch's cache beside its prompts' activations or a token's logits, of a step or of an evaluation, and
    copies of weights that are reordered for it."""
    room, settings = run.policy.room, run.config.evaluation
    evaluated = run.problems_asked * settings.eval_samples
    wanted = [(work.once or work.rows, work.tokens), (evaluated, settings.eval_max_tokens or work.tokens)]
    return reordered_bytes(run.policy, head=True) + max(
        len(next(batches, ()))
        * ((work.prompt + tokens) * room.needs.cached + max(work.prompt * room.needs.read, room.needs.drawn))
        for rows, tokens in wanted
        for batches in [room.sampling([work.prompt] * rows, tokens, run.config.bookkeeping.sample_batch)]
    )


def kept_states(run: TextLearner, work: StageWork) -> int:
    """Final states of every written position, of each role beside the student, until the step is over."""
    return work.rows * work.tokens * width_of(text_config(run.policy)) * FLOAT * len(work.recipe.teachers)


def teacher_bytes(run: TextLearner, work: StageWork, contexts: Mapping[str, int]) -> int:
    """The largest batch that a teacher reads."""
    length = max([work.prompt, *contexts.values()]) + work.tokens
    rows = work.rows * len(work.recipe.teachers)
    found = 0
    for role in work.recipe.teachers.values():
        policy = reader(run, role.weights)
        part = next(policy.room.scoring([length] * rows, run.config.bookkeeping.micro_batch), ())
        read = len(part) * length * policy.room.needs.read
        found = max(found, read + reordered_bytes(policy, head=False) + lent_bytes(run, role.weights))
    return found


def lent_bytes(run: TextLearner, spec: Weights) -> int:
    """Weights that come to the accelerator for a pass. (On a CPU they are pages of a file.)"""
    device, policy = run.policy.model.device, reader(run, spec)
    if run.models.weights.offload is None or device.type == "cpu" or isinstance(spec, Live):
        return 0
    if isinstance(spec, External):
        return sum(one.nbytes for one in policy.model.parameters() if one.device != device)
    return 0 if policy.adapted else sum(one.nbytes for one in policy.model.parameters())


def reader(run: TextLearner, spec: Weights) -> Policy:
    """Whose room counts where a role reads: another model's that is here already, or the student's."""
    if isinstance(spec, External):
        return run.models.weights.external.get(spec.model, run.policy)
    return run.policy


def update_bytes(run: TextLearner, work: StageWork, contexts: Mapping[str, int]) -> int:
    """What layers keep of the largest micro-batch, of all roles that one update trains, with its loss, until gradients
    take their place. Of several micro-batches the gradients are there from the first one on."""
    room, gradients = run.policy.room, gradient_bytes(run)
    length = tokens_trained(work, contexts)
    parts = list(room.scoring([length] * work.rows, run.config.bookkeeping.micro_batch, gradient=True))
    rows = max(map(len, parts), default=0)
    tokens = rows * length
    kept = tokens * kept_by_a_token(run.policy, run.config.loading.gradient_checkpointing)
    whole = kept + loss_bytes(run, rows * work.tokens, 1 + len(work.recipe.teachers))
    layer = tokens * kept_by_a_layer(run.policy)
    return layer + (whole + gradients if len(parts) > 1 else max(whole, gradients))


def tokens_trained(work: StageWork, contexts: Mapping[str, int]) -> int:
    """Tokens of a row that are alive with their graphs: prompt and answer, of every role that the update trains which
    trains most."""
    recipe = work.recipe
    together = {update.roles for step in range(work.steps) for update in recipe.updates(step)}
    return max(sum(contexts.get(role, work.prompt) + work.tokens for role in roles) for roles in together)


def kept_by_a_token(policy: Policy, checkpointing: Checkpointing = "none") -> int:
    """Bytes that a forward pass keeps of a token for the backward pass, as this model does with a short row: whatever
    its layers, its adapters, and what is computed again."""
    with whole(bare(policy.model)):
        return _kept_by_a_token(policy, checkpointing)


def _kept_by_a_token(policy: Policy, checkpointing: Checkpointing) -> int:
    mine = {one.untyped_storage().data_ptr() for one in policy.model.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in mine:
            kept[place] = tensor  # held, so that no other takes its place
        return tensor

    row = [policy.renderer.pad_id] * MEASURED
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    # Of layers that are computed again in part, torch keeps what they need itself, unseen by hooks.
    products = Products(note) if checkpointing == "selective" else nullcontext()
    with torch.enable_grad(), hooks, products:
        states = LocalScorer().states(policy, [row], [row])
    del states
    return sum(one.untyped_storage().nbytes() for one in kept.values()) // (2 * MEASURED)


def kept_by_a_layer(policy: Policy) -> int:
    """Bytes that one layer takes of a token while it goes back, at most: of its activations, which may have been
    recomputed, and of their gradients."""
    layers = depth_of(text_config(policy))
    return max(policy.room.needs.read, policy.room.needs.trained // layers)


def loss_bytes(run: TextLearner, positions: int, roles: int) -> int:
    """A chunk's logits of all roles, the arrays of a block, the sums for the head's matrix and the states."""
    policy = run.policy
    cuda = policy.model.device.type == "cuda"
    logits = positions * policy.vocabulary * FLOAT
    chunk = min(roles * logits, CHUNK_BYTES_ON_CUDA if cuda else CHUNK_BYTES)
    block = chunk // roles if cuda else min(logits, BLOCK_BYTES)
    matrix = bare(policy.model).get_output_embeddings().weight
    head = matrix.nbytes if matrix.requires_grad else 0
    return chunk + LOSS_BLOCKS * block + head + 2 * positions * width_of(text_config(policy)) * FLOAT


def step_bytes(run: TextLearner) -> int:
    """Gradients, and what the optimizer needs beside them for its largest tensor; on CUDA for all of them, unless one
    kernel does it."""
    sizes = [local(one).nbytes for one in trainable(run)]
    at_once = run.policy.model.device.type == "cuda" and run.recipe.optimization.optim == "adamw_torch"
    return gradient_bytes(run) + STEP_COPIES * (sum(sizes) if at_once else max(sizes, default=0))


def text_config(policy: Policy) -> Any:
    return bare(policy.model).config.get_text_config()
