"""The weights of a run of text: those that are trained, those that follow them, and where each stage starts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.policy.adapter import remember_fingerprint
from selfteach.policy.loading import Policy, bare, load_policy, load_reader, policy_of
from selfteach.policy.lora import LoraConfig
from selfteach.policy.room import memory_limit, room_of
from selfteach.policy.sharding import mesh_of, require_several, shard
from selfteach.policy.shared_base import Base, again, base_under, named_base
from selfteach.recipes import knobs, preset_of
from selfteach.recipes.base import Recipe
from selfteach.recipes.parts import BASE, Adapter, Optimization
from selfteach.roles.store import WeightStore, is_lasting
from selfteach.roles.weights import POLICY, External, Snapshot, Weights
from selfteach.task.arena import model_folder, resolve_model
from selfteach.training.config import Loading, TrainConfig
from selfteach.training.gradients import broadcast
from selfteach.training.inputs import external_models
from selfteach.training.learner import Trained
from selfteach.training.optimizers import SHARDED_OPTIMIZERS, optimizer_of
from selfteach.training.schedule import scheduled
from selfteach.training.text.offloading import offload_of
from selfteach.training.text.starts import Starts
from selfteach.training.text.teachers.given import handed_of
from selfteach.training.text.vllm_rollouts import VllmRollouts, is_cut
from selfteach.words import option


class Models:
    """``policies``: trained weights by name; ``weights``: what is held for roles; ``starts``: where stages begin;
    ``others``: models that only teach, of all stages; ``kept_rooms``: the sizes that a resumed run had for them;
    ``vllm``: who samples rollouts in the policy's place (None: nobody)."""

    def __init__(self, config: TrainConfig, recipes: Sequence[Recipe], device: torch.device) -> None:
        self.recipes = list(recipes)
        require_shardable(config, recipes)
        self.policies = {
            name: load_trained(config, adapter, device) for name, adapter in adapters(recipes).items()
        }
        snapshots = [spec for spec in weights_of(recipes) if isinstance(spec, Snapshot)]
        self.others = external_models(config)
        self.handed = handed_of(config, recipes, self.policy.vocabulary)
        self.kept_rooms: dict[str, int] = {}
        self.bases: dict[Base, nn.Module] = {}
        self.weights = WeightStore(
            self.policies,
            partial(self.load_external, config, device),
            snapshots,
            offload=offload_of(config.loading, device),
            sampler_dtype=config.copied_in,
        )
        self.vllm = VllmRollouts(config, self.policy, self.weights) if config.vllm.use_vllm else None
        self.starts = Starts(self.policies, recipes)
        self.stage: tuple[int, str] | None = None

    @property
    def policy(self) -> Policy:
        """The weights that a recipe trains unless it says otherwise."""
        return self.policies[POLICY]

    def load_external(self, config: TrainConfig, device: torch.device, model: str) -> Policy:
        by = [
            role for one in self.recipes for role in one.roles.items() if role[1].weights == External(model)
        ]
        if self.handed is not None and {name for name, _ in by} <= set(self.handed.roles):
            return load_reader(
                resolve_model(model),
                trust_remote_code=config.loading.trust_remote_code,
                memory=config.bookkeeping.memory or memory_limit(device),
            )
        policy = self.load_on_a_base(config, device, model)
        if policy is None:
            policy = load_external(config, device, model, on=self.waits_on(device))
            self.weights.rested(policy)
        policy.room.memory = self.kept_rooms.get(model, policy.room.memory)
        return policy

    def load_on_a_base(self, config: TrainConfig, device: torch.device, model: str) -> Policy | None:
        """An adapter on a base that further teachers stand on; None of any other model, which is merged.

        The base is there once: below the policy's own adapter, where that is on it too, or for all these teachers.
        """
        loading = config.loading
        base = None if loading.fsdp != "off" else under(config, model)
        if base is None or sum(under(config, one) == base for one in self.others) < 2:
            return None
        held = self.base_held(loading, base)
        own = held is self.policy.model  # which stays where it is
        policy = load_policy(
            resolve_model(model),
            precision=loading.teacher_dtype or loading.precision,
            trained=False,
            merge=False,
            on=None if held is None else again(held),
            trust_remote_code=loading.trust_remote_code,
            device=device if own else self.waits_on(device),
            memory=config.bookkeeping.memory or memory_limit(device),
        )
        policy.model.requires_grad_(False)
        if held is None:
            self.weights.rested(policy)
        self.bases.setdefault(base, policy.model)
        return policy

    def waits_on(self, device: torch.device) -> torch.device:
        """The device of other models while they do not score."""
        return device if self.weights.offload is None else torch.device("cpu")

    def base_held(self, loading: Loading, base: Base) -> nn.Module | None:
        """A model in memory on this base, stored as a teacher's is to be: another teacher, or the policy below its
        adapter."""
        alike = (loading.teacher_dtype or loading.precision) == "bfloat16", loading.precision == "bfloat16"
        if self.policy.adapted and alike[0] == alike[1]:
            config = cast(Any, self.policy.model).peft_config["default"]
            if base == (named_base(str(bare(self.policy.model).name_or_path)), config.revision):
                return self.policy.model
        return self.bases.get(base)

    def whole(self, recipe: Recipe, *, roles: bool = False) -> AbstractContextManager[None]:
        """Within it this process computes without the others (``WeightStore.whole``) with the trained weights, and
        (``roles``) with those of the recipe's roles."""
        return self.weights.whole(self.here(recipe) if roles else ())

    def whole_to_write(self, recipe: Recipe, *, own: bool) -> AbstractContextManager[None]:
        """The same for a rollout (``own``: the recipe's, which may ask any role); where vLLM writes it nothing is
        gathered, unless the policy is to score what a cut has changed."""
        if self.vllm is not None and not own and not is_cut(recipe):
            return nullcontext()
        return self.whole(recipe, roles=own)

    def here(self, recipe: Recipe) -> list[Weights]:
        """What the recipe's roles score with in this process, and not elsewhere."""
        handed = () if self.handed is None else self.handed.roles
        return [role.weights for name, role in recipe.roles.items() if name not in handed]

    @property
    def written_at(self) -> int:
        """Optimizer steps that the weights had made which sample rollouts now."""
        return self.weights.steps if self.vllm is None else self.vllm.steps

    @property
    def rooms(self) -> dict[str, int]:
        """Bytes of a pass of each set of trained weights: they decide how batches are cut, and so how sums are
        rounded."""
        return {name: one.room.memory for name, one in self.policies.items()}

    def state(self) -> dict[str, Any]:
        """``rooms``, and those of other models that teach, by their place among the recipe's, for a resumed run may
        call their folders otherwise: with other ones a run would not go on bit for bit."""
        others = self.kept_rooms | {name: one.room.memory for name, one in self.weights.external.items()}
        return {
            "room": self.rooms,
            "others": {str(i): others[name] for i, name in enumerate(self.others) if name in others},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these sizes, on whatever machine; a model that is loaded later takes its own then."""
        for name, memory in state["room"].items():
            self.policies[name].room.memory = memory
        self.kept_rooms = {self.others[int(i)]: memory for i, memory in state.get("others", {}).items()}
        for name in self.kept_rooms.keys() & self.weights.external.keys():
            self.weights.external[name].room.memory = self.kept_rooms[name]

    def enter(self, stage: int, name: str, recipe: Recipe) -> None:
        """Begin a stage: trained weights from where it says, roles from the weights as they are then."""
        first, follows = self.stage is None, self.stage is not None and stage == self.stage[0] + 1
        if first:
            self.starts.keep(BASE)
        elif follows and self.stage is not None:
            self.starts.keep(self.stage[1])
            self.weights.snapshot(self.stage[1], "end")
        self.stage = (stage, name)
        if (
            first or follows
        ):  # a run that is resumed has its weights and copies put back next, whatever this did
            for trained, spec in recipe.trained.items():
                self.starts.put(trained, spec.start)
            self.starts.let_go(self.recipes[stage + 1 :])
        later = weights_of(self.recipes[stage:])
        # A stage between two that name it lets it be.
        lasting = [one for one in weights_of(self.recipes[:stage]) if is_lasting(one) and one in later]
        self.weights.enter([*self.here(recipe), *lasting], moved=stage > 0, later=later)
        self.weights.snapshot(name, "start")  # now that it knows whether the weights have moved

    def optimizers(self, recipe: Recipe) -> Mapping[str, Trained]:
        return {
            name: trained_of(self.policies[name], spec.optimization, partial(steps_of, recipe, name))
            for name, spec in recipe.trained.items()
        }


def weights_of(recipes: Sequence[Recipe]) -> list[Weights]:
    """The specifications that these stages' roles name."""
    return [role.weights for recipe in recipes for role in recipe.roles.values()]


def steps_of(recipe: Recipe, name: str, batches: int) -> int:
    """Optimizer steps of the trained weights ``name`` on a stage's first so many batches."""
    return sum(name in update.trains for step in range(batches) for update in recipe.updates(step))


def adapters(recipes: Sequence[Recipe]) -> dict[str, Adapter]:
    """Each set of trained weights with the adapter of the first stage that trains it."""
    found: dict[str, Adapter] = {}
    for recipe in recipes:
        for name, trained in recipe.trained.items():
            found.setdefault(name, trained.adapter)
    return found


def trained_of(policy: Policy, o: Optimization, steps_of: Callable[[int], int]) -> Trained:
    """An optimizer of the policy's trainable weights; the schedule follows all its steps in the stage, ``steps_of`` of
    so many batches."""
    parameters = policy.trainable()
    optimizer = optimizer_of(
        o.optim, parameters.values(), lr=o.lr, betas=o.betas, weight_decay=o.weight_decay
    )
    schedule = scheduled(optimizer, o.schedule, steps_of(o.warmup), max(1, steps_of(o.steps)))
    return Trained(optimizer, parameters, schedule, o.max_grad_norm)


def load_trained(config: TrainConfig, adapter: Adapter, device: torch.device) -> Policy:
    """The policy to train: full weights, or LoRA where ``lora_rank`` is above 0. A model in memory is copied.

    UserError for teachers in float32 where a LoRA base, which is one of them, is stored in bfloat16."""
    loading = config.loading
    a = adapter
    lora = LoraConfig(a.lora_rank, a.lora_alpha, a.lora_targets) if a.lora_rank else None
    require(
        not (lora and loading.precision == "bfloat16" and loading.teacher_dtype == "float32"),
        "teacher_dtype float32: the teacher is the LoRA base itself, which precision bfloat16 stores in bfloat16; "
        "take precision mixed, or leave teacher_dtype out",
    )
    policy = loaded(config, lora, device)
    return replace(policy, teacher_dtype=loading.teacher_dtype)


def loaded(config: TrainConfig, lora: LoraConfig | None, device: torch.device) -> Policy:
    """The model that the run starts from."""
    loading = config.loading
    if loading.fsdp != "off":
        return sharded(loaded(unsharded(config), lora, torch.device("cpu")), config, device)
    if config.network is not None:
        network, tokenizer = config.network
        return policy_of(
            copy.deepcopy(network).float(), tokenizer, name=loading.model, precision=loading.precision, lora=lora,
            gradient_checkpointing=loading.gradient_checkpointing, chat_template=loading.chat_template,
            device=device, memory=config.bookkeeping.memory,
        )  # fmt: skip
    return load_policy(
        resolve_model(loading.model) if loading.model else str(model_folder(config.task)),
        precision=loading.precision,
        lora=lora,
        gradient_checkpointing=loading.gradient_checkpointing,
        chat_template=loading.chat_template,
        revision=loading.model_revision,
        trust_remote_code=loading.trust_remote_code,
        device=device,
        memory=config.bookkeeping.memory,
    )


def unsharded(config: TrainConfig) -> TrainConfig:
    return replace(config, loading=replace(config.loading, fsdp="off"))


def sharded(policy: Policy, config: TrainConfig, device: torch.device) -> Policy:
    """The policy, loaded whole by every process, with its weights spread over all of them."""
    network, loading = bare(policy.model), config.loading
    if config.network is not None:  # what was made in each process need not be the same
        broadcast([*network.parameters(), *network.buffers()])
    if policy.adapted:
        remember_fingerprint(policy.model)
    half = policy.precision != "float32"
    shard(network, mesh_of(device), loading.fsdp, half=half)
    memory = config.bookkeeping.memory or memory_limit(device)
    return replace(
        policy, room=room_of(policy.model, limit=memory, checkpointing=loading.gradient_checkpointing)
    )


def require_shardable(config: TrainConfig, recipes: Sequence[Recipe]) -> None:
    """UserError for what sharded weights cannot do, by the option that asks for it."""
    loading = config.loading
    if loading.fsdp == "off":
        return
    for asked, said in (
        (loading.sampler_dtype is not None, "--sampler-dtype: take --precision bfloat16, in which layers are gathered"),
        (loading.offload_teachers != "none", "--offload-teachers: teachers are sharded themselves"),
        (any(one.per_record is not None for one in recipes), "gradients of single records, which want weights whole"),
        (
            config.vllm.use_vllm and any(one.lora_rank for one in adapters(recipes).values()),
            "--use-vllm and LoRA: take --lora-rank 0",
        ),
    ):  # fmt: skip
        require(not asked, f"--fsdp {loading.fsdp} does not go with {said}; or leave --fsdp out")
    for name in {
        spec.optimization.optim for one in recipes for spec in one.trained.values()
    } - SHARDED_OPTIMIZERS:
        raise UserError(
            f"--fsdp {loading.fsdp} does not go with --optim {name}, whose state is not a tensor's own shards: take "
            "--optim adamw_torch_fused, adamw_torch or sgd; or leave --fsdp out"
        )
    require_several()


def under(config: TrainConfig, model: str) -> Base | None:
    """The base that a teacher stands on which is an adapter; None also of one that cannot be had, which is said where
    it is loaded, with the option that names it."""
    try:
        return base_under(resolve_model(model), trust_remote_code=config.loading.trust_remote_code)
    except UserError:
        return None


def load_external(
    config: TrainConfig, device: torch.device, model: str, on: torch.device | None = None
) -> Policy:
    """Another model, which never moves, loaded ``on`` a device (none: ``device``) with the room of ``device``.
    UserError, with the option that names it, if it cannot be loaded."""
    loading = config.loading
    if loading.fsdp != "off":
        whole_one = load_external(unsharded(config), torch.device("cpu"), model)
        return sharded(whole_one, config, device)
    try:
        return load_policy(
            resolve_model(model),
            precision=loading.teacher_dtype or loading.precision,
            trained=False,
            trust_remote_code=loading.trust_remote_code,
            device=on or device,
            memory=config.bookkeeping.memory or memory_limit(device),
        )
    except UserError as error:
        raise UserError(f"{called(config.recipe, model)}{error}") from error


def called(recipe: Recipe, model: str) -> str:
    """Which option of a recipe names another model, and whether it is the method's first preset that does."""
    by = next((name for name, value in knobs(recipe).items() if value == model), None)
    if by is None:
        return ""
    preset = knobs(preset_of(type(recipe))).get(by) == model
    return f"{option(by)} (the preset's): " if preset else f"{option(by)}: "
