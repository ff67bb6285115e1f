"""``selfteach.export``: a run, a checkpoint or an adapter as a folder that transformers loads by itself."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from selfteach.api.result import Result
from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.outside import with_type
from selfteach.policy.adapter import refuse_tied
from selfteach.policy.loading import Policy, load_policy
from selfteach.training.config import Loading
from selfteach.training.text.saved import Saved, load_saved, saved_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export(
    model: str | Path | Result,
    out: Path | str,
    *,
    merge: bool = False,
    base: str | Path | None = None,
    dtype: str = "float32",
    push_to_hub: str | None = None,
    private: bool = False,
) -> Path:
    """Write a trained model as a Hugging Face folder and return it: config, safetensors, the tokenizer with the chat
    template that it was trained with, generation settings that stop where it learned to.

    ``model``: a run or its folder, a checkpoint RUN/checkpoints/step-N, a model's or an adapter's folder. Of LoRA it
    is the adapter's folder or, with ``merge``, the whole model with the adapter added in; ``base`` says where the base
    model is now. ``dtype``: in which numbers a whole model is stored. ``push_to_hub``: the repository that the folder
    is uploaded to as well (``private``: seen by its owner alone). Raises UserError where ``out`` is not empty, nothing
    can be merged, or the hub cannot be written to.
    """
    out = Path(out)
    require(dtype in DTYPES, f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    require(
        push_to_hub is not None or not private, "private says who sees the repository: name it, push_to_hub"
    )
    refuse_occupied(out)
    if push_to_hub is not None:
        refuse_without_token(push_to_hub)
    saved = saved_model(model.folder if isinstance(model, Result) else model)
    policy = whole(saved, None if base is None else str(base))
    require(
        policy.adapted or not merge,
        f"{saved.label} is a whole model, there is no adapter to merge: leave merge out",
    )
    if policy.adapted and not merge:
        require(
            dtype == "float32",
            "dtype is of whole models; an adapter is float32: merge it, or leave dtype out",
        )
        name_base(policy, None if base is None else str(base), push_to_hub)
    write(as_stored(policy, merge, DTYPES[dtype]), out)
    if push_to_hub is not None:
        push(out, push_to_hub, private)
    return out


def whole(saved: Saved, base: str | None) -> Policy:
    """The model in float32 on the CPU, in which an adapter is merged with no digit lost."""
    its = saved.run.loading if saved.run is not None else Loading()
    how = Loading(
        chat_template=its.chat_template,
        model_revision=its.model_revision,
        trust_remote_code=its.trust_remote_code,
    )
    if saved.run is None:
        return load_policy(saved.model, base=base, merge=False, device="cpu")
    return load_saved(saved, how, base=base, device="cpu")


def name_base(policy: Policy, base: str | None, repository: str | None) -> None:
    """Have the adapter name its base model as it was given; a folder of this machine would mean nothing on the hub."""
    config: Any = policy.model.peft_config["default"]
    named = base or str(config.base_model_name_or_path)
    require(
        repository is None or not Path(named).is_dir(),
        f"the adapter builds on {named}, a folder of this machine, which nobody else has: merge it, or give base, the "
        "base model's name on the hub",
    )
    config.base_model_name_or_path = str(Path(named).absolute()) if Path(named).is_dir() else named


def refuse_occupied(out: Path) -> None:
    occupied = out.is_file() or (out.is_dir() and any(out.iterdir()))
    require(not occupied, f"{out} is there already, and not empty: choose another --out")


def as_stored(policy: Policy, merge: bool, dtype: torch.dtype) -> Policy:
    """The policy with its adapter merged, and in the numbers that were asked for: in place, for models are large."""
    model: Any = policy.model
    if merge:
        refuse_tied(model, policy.name)
        model = model.merge_and_unload()
    return replace(policy, model=model.to(dtype) if dtype != torch.float32 else model)


def write(policy: Policy, out: Path) -> None:
    """The folder, whole or not at all."""
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        policy.save(aside)
        if out.is_dir():
            out.rmdir()
        aside.replace(out)
    except OSError as problem:
        raise UserError(f"{out} cannot be written ({problem.strerror}): choose another --out") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def refuse_without_token(repository: str) -> None:
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as problem:
        raise UserError(f"push_to_hub {repository!r} is no repository's name: {with_type(problem)}") from None
    require(
        get_token() is not None,
        "push_to_hub needs a token of the Hugging Face hub: run `hf auth login`, or set HF_TOKEN",
    )


def push(folder: Path, repository: str, private: bool) -> None:
    """Upload the folder to a model repository, which is made if it is not there."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    hub = HfApi()
    try:
        hub.create_repo(repository, private=private or None, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="selfteach export")
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as problem:
        raise UserError(
            f"{folder} is written, but could not be uploaded to {repository}: {with_type(problem)}"
        ) from None
