"""A LoRA adapter on the disk, and the base model that it was trained on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn

from selfteach.errors import UserError, exhausted

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base.json"
"""Beside an adapter that was saved here: which weights it was trained on."""
MERGED = "selfteach_merged"
"""Attribute of a model with an adapter added in: what its weights are known by."""
LOOKED_AT = 64
"""Numbers of each tensor that a fingerprint reads: other weights differ everywhere."""


def is_adapter(folder: str) -> bool:
    return (Path(folder) / CONFIG).is_file()


def base_of(folder: str) -> tuple[str, str | None]:
    """(name or folder, revision) of the base model that an adapter names. UserError if it names none."""
    if not (Path(folder) / WEIGHTS).is_file():
        raise UserError(f"model {folder!r} is a LoRA adapter without {WEIGHTS}: save it again.")
    config = peft.PeftConfig.from_pretrained(folder)
    if not config.base_model_name_or_path:
        raise UserError(
            f"model {folder!r} is a LoRA adapter that names no base model: write its folder or hub id into "
            f"base_model_name_or_path of {CONFIG}, or save the model merged (selfteach export --merge)."
        )
    return config.base_model_name_or_path, config.revision


def without_base(folder: str, base: str, why: str) -> UserError:
    """What to say of an adapter whose base model cannot be had."""
    return UserError(
        f"model {folder!r} is a LoRA adapter of {base!r}, which cannot be had ({why.rstrip('.')}): say where the base "
        f"model is now (--base in eval, chat, export; else base_model_name_or_path of {Path(folder) / CONFIG}); "
        "an adapter that was merged (selfteach export --merge) needs no base."
    )


def with_adapter(network: nn.Module, folder: str) -> Any:
    """``network`` with the adapter in ``folder`` on it.

    Raises UserError where the adapter was trained on another model, or where its tensors are not exactly those that
    its configuration asks for on this one: those it lacks would be as if untrained.
    """
    refuse_other_base(network, folder)
    try:
        tuned: Any = peft.PeftModel.from_pretrained(network, folder)
        # Once more, for what it says of names: from_pretrained forgets it.
        found = tuned.load_adapter(folder, "default", torch_device=str(next(network.parameters()).device))
    except (RuntimeError, ValueError, KeyError) as problem:  # shapes that differ, modules that are not there
        if exhausted(problem) is not None:
            raise
        lines = [line.strip() for line in str(problem).splitlines()] or [""]
        said = next((line for line in lines if line.startswith("size mismatch")), lines[0]).rstrip(".")
        raise UserError(
            f"model {folder!r}: the LoRA adapter does not fit its base ({said[:300]}): it belongs to another base "
            f"model, or {CONFIG} to another adapter."
        ) from problem
    for names, what in (
        (found.missing_keys, "lacks"),
        (found.unexpected_keys, "has no place in its base for"),
    ):
        if names:
            raise UserError(
                f"model {folder!r}: the LoRA adapter {what} {len(names)} tensors ({min(names)} …): "
                "its file was cut, or it belongs to another base model."
            )
    return tuned


def refuse_other_base(network: nn.Module, folder: str) -> None:
    """UserError if an adapter that says what it was trained on was not trained on ``network``."""
    path = Path(folder) / BASE
    if not path.is_file():
        return  # of an adapter of another program nothing is known
    try:
        trained_on = json.loads(path.read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UserError(f"model {folder!r}: {BASE} cannot be read ({problem}): save it again.") from None
    if trained_on != fingerprint(network):
        raise UserError(
            f"model {folder!r} is a LoRA adapter of other weights than its base model has now: put the base model "
            f"back as it was, or name the right one in base_model_name_or_path of {Path(folder) / CONFIG}."
        )


def note_base(network: nn.Module, folder: str | Path) -> None:
    """Write down beside an adapter which weights it was trained on; ``network`` has the adapter on it."""
    (Path(folder) / BASE).write_text(
        json.dumps({"fingerprint": fingerprint(network)}) + "\n", encoding="utf-8"
    )


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


def merged(network: nn.Module, folder: str) -> Any:
    """``network`` with the adapter in ``folder`` added to its weights. Raises UserError as ``with_adapter`` does."""
    # Not of the sums: they are rounded differently in other numbers.
    known = fingerprint(network) + hashlib.sha256((Path(folder) / WEIGHTS).read_bytes()).hexdigest()
    whole = with_adapter(network, folder).merge_and_unload()
    setattr(whole, MERGED, hashlib.sha256(known.encode()).hexdigest())
    return whole
