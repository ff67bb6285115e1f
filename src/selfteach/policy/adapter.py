"""A LoRA adapter on the disk, and the base model that it was trained on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from selfteach.errors import UserError, exhausted
from selfteach.policy.folder import adapter_of, require_quick

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base.json"
"""Beside an adapter that was saved here: which weights it was trained on."""
MERGED = "selfteach_merged"
"""Attribute of a model with an adapter added in: what its weights are known by."""
LOOKED_AT = 64
"""Numbers of each tensor that a fingerprint reads: other weights differ everywhere."""


def is_adapter(folder: Path | str) -> bool:
    """Whether it is the folder of an adapter."""
    return (Path(folder) / CONFIG).is_file()


def base_of(folder: Path, model: str, base: str | None = None) -> tuple[str, str | None]:
    """(name or folder, revision) of the base of the adapter in ``folder``, which the user calls ``model``: ``base``, or
    what it names itself. UserError if it is no LoRA adapter in safetensors, or names none."""
    config = adapter_of(folder, model)
    named = base or config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise UserError(
            f"model {model!r} is a LoRA adapter that names no base model: say where it is (--base in eval, chat, "
            f"export; else base_model_name_or_path of {CONFIG}), or save the model merged (selfteach export --merge)."
        )
    revision = config.get("revision")
    return named, revision if isinstance(revision, str) and not base else None


def without_base(model: str, folder: Path, base: str, why: str) -> UserError:
    """What to say of an adapter whose base model cannot be had."""
    return UserError(
        f"model {model!r} is a LoRA adapter of {base!r}, which cannot be had ({why.rstrip('.')}): say where the base "
        f"model is now (--base in eval, chat, export; else base_model_name_or_path of {folder / CONFIG}); "
        "an adapter that was merged (selfteach export --merge) needs no base."
    )


def with_adapter(network: nn.Module, folder: Path, model: str) -> Any:
    """``network`` with the adapter in ``folder`` on it.

    Raises UserError where the adapter was trained on another model, or where its tensors are not exactly those that
    its configuration asks for on this one: those it lacks would be as if untrained.
    """
    refuse_other_base(network, folder, model)
    require_quick(adapter_of(folder, model), network, model)
    try:
        tuned: Any = peft.PeftModel.from_pretrained(network, str(folder))
        # Once more, for what it says of names: from_pretrained forgets it.
        found = tuned.load_adapter(
            str(folder), "default", torch_device=str(next(network.parameters()).device)
        )
    except (RuntimeError, ValueError, KeyError) as problem:  # shapes that differ, modules that are not there
        if exhausted(problem) is not None:
            raise
        lines = [line.strip() for line in str(problem).splitlines()] or [""]
        said = next((line for line in lines if line.startswith("size mismatch")), lines[0]).rstrip(".")
        raise UserError(
            f"model {model!r}: the LoRA adapter does not fit its base ({said[:300]}): it belongs to another base "
            f"model, or {CONFIG} to another adapter."
        ) from problem
    for names, what in (
        (found.missing_keys, "lacks"),
        (found.unexpected_keys, "has no place in its base for"),
    ):
        if names:
            raise UserError(
                f"model {model!r}: the LoRA adapter {what} {len(names)} tensors ({min(names)} …): "
                "its file was cut, or it belongs to another base model."
            )
    return tuned


def refuse_other_base(network: nn.Module, folder: Path, model: str) -> None:
    """UserError if an adapter that says what it was trained on was not trained on ``network``."""
    path = folder / BASE
    if not path.is_file():
        return  # of an adapter of another program nothing is known
    try:
        trained_on = json.loads(path.read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UserError(f"model {model!r}: {BASE} cannot be read ({problem}): save it again.") from None
    if trained_on != fingerprint(network):
        raise UserError(
            f"model {model!r} is a LoRA adapter of other weights than its base model has now: put the base model "
            f"back as it was, or name the right one in base_model_name_or_path of {folder / CONFIG}."
        )


def note_base(network: nn.Module, folder: str | Path) -> None:
    """Write down beside an adapter which weights it was trained on; ``network`` has the adapter on it."""
    (Path(folder) / BASE).write_text(
        json.dumps({"fingerprint": fingerprint(network)}) + "\n", encoding="utf-8"
    )


def remember_fingerprint(network: nn.Module) -> None:
    """Keep what ``fingerprint`` says of a base that stands still, before its weights are spread over processes."""
    whole = network.get_base_model() if isinstance(network, peft.PeftModel) else network
    setattr(whole, MERGED, fingerprint(network))


@torch.no_grad()
def fingerprint(network: nn.Module) -> str:
    """Of a model's weights without any adapter: names, shapes and some numbers of each, in bfloat16 whatever they are
    stored in."""
    whole = network.get_base_model() if isinstance(network, peft.PeftModel) else network
    if merged := getattr(whole, MERGED, None):
        return str(merged)
    found = {}
    for name, parameter in whole.named_parameters():
        plain = name.replace("base_layer.", "")
        if "lora_" not in plain:
            some = parameter.detach().reshape(-1)[:LOOKED_AT].to("cpu", torch.bfloat16).view(torch.int16)
            found[plain] = (list(parameter.shape), some.tolist())
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def refuse_tied(tuned: Any, model: str) -> None:
    """UserError for an adapter on an embedding that is the output head as well: added into the one, it would change the
    other, which was not trained so."""
    whole = tuned.get_base_model()
    ends = [whole.get_input_embeddings(), whole.get_output_embeddings()]
    adapted = any(isinstance(one, LoraLayer) for one in ends)
    first, last = (one.get_base_layer() if isinstance(one, LoraLayer) else one for one in ends)
    if adapted and last is not None and first.weight is last.weight:
        raise UserError(
            f"model {model!r} is a LoRA adapter on an embedding that is the output head too (tied): added in, it "
            "would change both; eval and chat take its run as it is, others need one trained without these two "
            "among its --lora-targets"
        )


def merged(network: nn.Module, folder: Path, model: str) -> Any:
    """``network`` with the adapter in ``folder`` added to its weights. Raises UserError as ``with_adapter`` does."""
    # Not of the sums: they are rounded differently in other numbers.
    known = fingerprint(network) + hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    tuned = with_adapter(network, folder, model)
    refuse_tied(tuned, model)
    whole = tuned.merge_and_unload()
    whole.requires_grad_(True)  # as of any model that is loaded: PEFT had the base stand still
    setattr(whole, MERGED, hashlib.sha256(known.encode()).hexdigest())
    return whole
