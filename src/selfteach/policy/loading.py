"""Loading a policy: a causal language model, its tokenizer and chat template, perhaps a LoRA adapter."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import peft
import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from selfteach.errors import UserError, exhausted
from selfteach.outside import with_type
from selfteach.policy.adapter import (
    base_of,
    is_adapter,
    merged,
    note_base,
    refuse_tied,
    with_adapter,
    without_base,
)
from selfteach.policy.folder import folder_of, require_plain
from selfteach.policy.lora import LoraConfig as LoraConfig
from selfteach.policy.lora import with_lora
from selfteach.policy.recomputing import Checkpointing, recompute
from selfteach.policy.renderer import ChatRenderer, Renderer
from selfteach.policy.room import Room, room_of
from selfteach.policy.sharding import settle

Precision = Literal["float32", "mixed", "bfloat16"]
"""``float32``: weights and arithmetic. ``mixed``: float32 weights, bfloat16 arithmetic in the transformer.
``bfloat16``: the same for weights that are trained; weights that never move are stored in bfloat16."""
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Policy:
    """A model that samples and scores, with everything needed to talk to it.

    ``vocabulary`` is the number of logit columns that mean a token: matrices are often padded beyond the
    tokenizer's ids, differently from one checkpoint to the next. ``precision`` says how it computes
    (``arithmetic``) and in what numbers copies of it that never move are stored (``storage``), ``teacher_dtype`` the
    same of those that score for a role without gradient (none: as it says of itself; ``teaching``). ``room`` bounds
    what goes through it at once.
    """

    name: str
    model: PreTrainedModel | peft.PeftModel
    tokenizer: PreTrainedTokenizerBase
    renderer: Renderer
    vocabulary: int
    room: Room
    precision: Precision = "float32"
    teacher_dtype: Dtype | None = None

    def arithmetic(self) -> torch.autocast:
        """Within it the transformer computes in the policy's precision, for sampling as for scoring."""
        mixed = self.precision != "float32"
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=mixed)

    @property
    def storage(self) -> torch.dtype:
        """Of copies that never move: they need no bits that a tiny update could fall into."""
        if self.teacher_dtype is not None:
            return torch.bfloat16 if self.teacher_dtype == "bfloat16" else torch.float32
        return torch.bfloat16 if self.precision == "bfloat16" else self.model.dtype

    def teaching(self) -> Policy:
        """The policy as it scores for a role without gradient that has weights of its own: computing in
        ``teacher_dtype``, whatever these are stored in."""
        if self.teacher_dtype is None:
            return self
        return replace(self, precision="float32" if self.teacher_dtype == "float32" else "mixed")

    @property
    def window(self) -> int:
        """Most tokens a prompt and its answer may have together (2³⁰ if the model sets no bound)."""
        return context_window(self.model)

    @property
    def adapted(self) -> bool:
        """True if a LoRA adapter is what is trained."""
        return isinstance(self.model, peft.PeftModel)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that want a gradient, by name: all of them, or the adapter's. Of a sharded model they are
        this process's parts."""
        settle(self.model)
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def save(
        self,
        folder: str | Path,
        *,
        merge: bool = False,
        state: Mapping[str, Shaped[Tensor, "..."]] | None = None,
    ) -> None:
        """Write an ordinary ``save_pretrained`` folder with the tokenizer: of a LoRA policy the adapter alone
        or, with ``merge``, the whole model with the adapter added in. ``state``: its tensors by name, of a model that
        is sharded (``sharding.whole_state``).

        The tokenizer has the chat template that the policy was prompted with, and generation ends where its turns do.
        """
        model = self.model
        if merge and isinstance(model, peft.PeftModel):
            refuse_tied(model, self.name)
            model = copy.deepcopy(model).merge_and_unload()
        with self._stopping_where_it_stops(bare(model)):
            write: Any = model.save_pretrained
            write(str(folder), **({} if state is None else {"state_dict": state}))
        if isinstance(model, peft.PeftModel):
            note_base(model, folder)
        tokenizer, template = self.tokenizer, self.renderer.template
        if not tokenizer.chat_template or tokenizer.get_chat_template() != template:
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)

    @contextmanager
    def _stopping_where_it_stops(self, model: PreTrainedModel) -> Iterator[None]:
        """Within it the model's generation settings name every stop token: its own may lack the template's."""
        config = model.generation_config
        before, stops = config.eos_token_id, sorted(self.renderer.stop_ids)
        known = before if isinstance(before, list) else [] if before is None else [before]
        if set(known) != set(stops):
            config.eos_token_id = stops if len(stops) > 1 else stops[0]
        try:
            yield
        finally:
            config.eos_token_id = before

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """Within it the model is what it was before any LoRA training; without LoRA nothing changes."""
        if isinstance(self.model, peft.PeftModel):
            with self.model.disable_adapter():
                yield
        else:
            yield


def bare(model: nn.Module) -> PreTrainedModel:
    """The transformers model within; adapters stay active, for PEFT puts them in place of its layers."""
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, peft.PeftModel) else model)


def body(model: nn.Module) -> nn.Module:
    """The part of it that makes the final hidden states, which its output head turns into logits."""
    whole = bare(model)
    inner: nn.Module = whole.base_model
    # Some classes carry the name of a module that only a larger model has.
    return getattr(whole, "model", whole) if inner is whole else inner


def context_window(model: nn.Module) -> int:
    """Most tokens ``model`` can place in one row (2³⁰ if it sets no bound)."""
    bound = getattr(bare(model).config.get_text_config(), "max_position_embeddings", None)
    return int(bound) if bound and bound > 0 else 2**30


def load_policy(
    model: str,
    *,
    precision: Precision = "float32",
    trained: bool = True,
    lora: LoraConfig | None = None,
    gradient_checkpointing: Checkpointing = "none",
    chat_template: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: torch.device | str | None = None,
    memory: int | None = None,
    base: str | None = None,
    merge: bool = True,
    on: PreTrainedModel | None = None,
) -> Policy:
    """Load ``model`` (a folder, or a name on the hub) in evaluation mode.

    A folder that holds a LoRA adapter is loaded with the adapter merged into its base, or beside it (``merge`` False:
    as it was trained, to the bit); ``base`` says where that is, if no longer where the adapter says, and ``on`` is that
    model itself, which the adapter is put on. Only safetensors are read.
    Weights that are trained are float32 whatever the ``precision``: at a learning rate of 1e-6 most bfloat16 weights
    could not move at all. Those that are not (``trained`` False, or the base under LoRA) are
    bfloat16 where it says so. ``chat_template`` is as in ``ChatRenderer``. ``memory``: bytes
    that the process may use there (none: all). Raises UserError for a missing or
    damaged folder, an unreachable name, a model that is no causal language model, weights that do not fill it,
    or a missing tokenizer.
    """
    source: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    refuse_lost_folder(model)
    folder = folder_of(model, revision, trust_remote_code)
    refuse_checkpoint(folder, model)
    tokenizer = _tokenizer(folder, model, source)
    beside = is_adapter(folder) and not merge
    halved = precision == "bfloat16" and not (trained and lora is None and not beside)
    dtype = "bfloat16" if halved else "float32"
    network = on or _network(folder, model, dtype, source, base=base, merge=merge)
    if not beside:
        # What an adapter on it will name as its base: this folder from wherever, or this adapter merged, not its base.
        network.name_or_path = str(Path(model).resolve()) if Path(model).is_dir() else model
    policy = policy_of(
        network, tokenizer, name=model, precision=precision, lora=lora,
        gradient_checkpointing=gradient_checkpointing, chat_template=chat_template, device=device,
        memory=memory,
    )  # fmt: skip
    if lora is not None:
        cast(Any, policy.model).peft_config["default"].revision = revision
    if not beside:
        return policy
    with _blaming(model):
        adapted = with_adapter(network, folder, model)
    return replace(policy, model=adapted.to(device).eval())


def skeleton(model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model that a folder's config describes (of an adapter: its base), on torch's meta device: shapes without
    weights. Raises UserError as ``load_policy`` does."""
    refuse_lost_folder(model)
    folder = folder_of(model, revision, trust_remote_code)
    if is_adapter(folder):
        base, its_revision = base_of(folder, model)
        return skeleton(base, revision=its_revision, trust_remote_code=trust_remote_code)
    maker: Any = AutoModelForCausalLM
    with _blaming(model):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            network: PreTrainedModel = maker.from_config(config, trust_remote_code=trust_remote_code)
    return network


def load_reader(model: str, *, trust_remote_code: bool = False, memory: int | None = None) -> Policy:
    """All of ``model`` but its weights: it renders what it would read, and can neither score nor sample. Raises
    UserError as ``load_policy`` does."""
    source: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    network = skeleton(model, trust_remote_code=trust_remote_code)
    tokenizer = _tokenizer(folder_of(model, None, trust_remote_code), model, source)
    return policy_of(network, tokenizer, name=model, memory=memory)


def policy_of(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    precision: Precision = "float32",
    lora: LoraConfig | None = None,
    gradient_checkpointing: Checkpointing = "none",
    chat_template: str | None = None,
    device: torch.device | str | None = None,
    memory: int | None = None,
) -> Policy:
    """A policy of a model that is loaded already; its weights are the policy's, not a copy.

    It is in evaluation mode and stays so, in training too: dropout, a router's noise and whatever else depends on the
    mode would make the trained policy another one than the sampled one.
    """
    _keep_scale(network)
    renderer = ChatRenderer(tokenizer, chat_template, _generation_stops(network))
    rows = network.get_output_embeddings().weight.shape[0]
    recompute(network, gradient_checkpointing)
    tuned: Any = network if lora is None else with_lora(network, lora)
    width = min(renderer.vocabulary, rows)
    tuned = tuned.to(device).eval()
    room = room_of(tuned, limit=memory, checkpointing=gradient_checkpointing)
    return Policy(name, tuned, tokenizer, renderer, width, room, precision)


def _network(
    folder: Path,
    model: str,
    dtype: str,
    source: dict[str, Any],
    *,
    base: str | None = None,
    merge: bool = True,
    above: tuple[Path, ...] = (),
) -> PreTrainedModel:
    """The model in ``folder``, which the user calls ``model``; of an adapter its base, with the adapter merged into it
    or (``merge`` False) without it. ``above``: adapters on it, by folder."""
    if is_adapter(folder):
        return _of_adapter(folder, model, dtype, source, base, merge, above)
    if base is not None:
        raise UserError(f"base is {base!r}, but model {model!r} is no LoRA adapter: leave --base out.")
    require_plain(folder, model)
    loader: Any = AutoModelForCausalLM
    with _blaming(model):
        network, info = loader.from_pretrained(
            str(folder),
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they come back in ``info`` and are refused by name
            **source,
        )
    unfilled = sorted({*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])})
    if unfilled:
        raise UserError(
            f"model {model!r}: {len(unfilled)} of the tensors its config.json asks for are missing or of "
            f"another shape (the first is {unfilled[0]}) and would stay random: get a complete folder."
        )
    _keep_savable(network)
    network.name_or_path = network.config.name_or_path = model  # not where the hub's files are kept
    return cast(PreTrainedModel, network)


def _keep_savable(network: PreTrainedModel) -> None:
    """Contradictory generation settings (a temperature without sampling) load with a warning but may refuse to
    be saved, at the end of a run: keep only the special tokens of such settings."""
    stored = network.generation_config
    try:
        stored.validate(strict=True)
    except ValueError:
        network.generation_config = GenerationConfig(
            bos_token_id=stored.bos_token_id,
            eos_token_id=stored.eos_token_id,
            pad_token_id=stored.pad_token_id,
        )


def _keep_scale(network: Any) -> None:
    """RWKV divides weights in place when it is first evaluated, against overflows of float16 alone, and would be saved
    like that: have it keep them as they are."""
    if getattr(network.config, "rescale_every", 0):
        if network.base_model.layers_are_rescaled:
            network.base_model.train()._rescale_layers()
        network.config.rescale_every = 0


def _of_adapter(
    folder: Path,
    model: str,
    dtype: str,
    source: dict[str, Any],
    base: str | None,
    merge: bool,
    above: tuple[Path, ...],
) -> PreTrainedModel:
    if folder.resolve() in above:
        raise UserError(f"model {model!r} is a LoRA adapter on itself: name its base in adapter_config.json.")
    named, revision = base_of(folder, model, base)
    try:
        refuse_lost_folder(named)
        its_folder = folder_of(named, revision, source["trust_remote_code"])
        network = _network(its_folder, named, dtype, source, above=(*above, folder.resolve()))
    except UserError as problem:
        raise without_base(model, folder, named, str(problem)) from problem
    if not merge:
        return network
    with _blaming(model):
        return cast(PreTrainedModel, merged(network, folder, model))


def refuse_checkpoint(folder: Path, model: str) -> None:
    if (folder / "manifest.json").is_file() and (folder / "state.json").is_file():
        raise UserError(
            f"model {model!r} is a checkpoint of a run: selfteach export {model} --out FOLDER makes a model of it."
        )


def _tokenizer(folder: Path, model: str, source: dict[str, Any]) -> PreTrainedTokenizerBase:
    with _blaming(model):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **source)
        tokenizer.name_or_path = model
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_ids):
        raise UserError(f"model {model!r} has no tokenizer: put its tokenizer.json into the folder.")
    return tokenizer


def _generation_stops(network: PreTrainedModel) -> list[int]:
    stored = network.generation_config.eos_token_id
    return stored if isinstance(stored, list) else [] if stored is None else [stored]


def refuse_lost_folder(model: str) -> None:
    """UserError for what looks like a path and is no folder: nobody should ask the hub for it."""
    first = Path(model).parts[0] if "/" in model else ""
    looks_like_a_path = (
        not model
        or model.startswith(("/", ".", "~"))
        or model.count("/") > 1
        or bool(first and os.path.isdir(first))
    )
    if looks_like_a_path and not (model and os.path.isdir(model)):
        raise UserError(f"model {model!r}: there is no such folder.")


@contextmanager
def _blaming(model: str) -> Iterator[None]:
    """Turn what transformers raises for a bad folder into one line that says what to do."""
    try:
        yield
    except UserError:
        raise
    except SafetensorError as problem:
        raise UserError(
            f"model {model!r} is damaged ({with_type(problem)}): get the folder again."
        ) from problem
    except Exception as problem:  # a broken config or tokenizer file makes transformers raise nearly anything
        if exhausted(problem) is not None:
            raise
        advice = "it needs config.json, model.safetensors and tokenizer.json of a causal language model"
        raise UserError(f"model {model!r} cannot be loaded ({with_type(problem)}): {advice}.") from problem
