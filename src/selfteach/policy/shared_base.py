"""Several adapters on one base model: each has modules of its own, and all have the base's numbers in common."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import peft
from torch import nn
from transformers import PreTrainedModel

from selfteach.policy.adapter import base_of, is_adapter
from selfteach.policy.folder import folder_of

Base = tuple[str, str | None]
"""The folder, or hub id and revision, of a base model."""


def base_under(model: str, *, trust_remote_code: bool = False) -> Base | None:
    """The base that the adapter ``model`` was trained on; None of a model that is no adapter. UserError where it names
    none."""
    folder = folder_of(model, None, trust_remote_code)
    if not is_adapter(folder):
        return None
    named, revision = base_of(folder, model)
    return named_base(named), revision


def named_base(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def again(model: nn.Module) -> PreTrainedModel:
    """The model below any adapter, as modules of their own on the very same parameters, where these do not train."""
    memo = {id(one): one for one in model.parameters() if not one.requires_grad}
    copied = copy.deepcopy(model, memo)
    return cast(PreTrainedModel, copied.unload() if isinstance(copied, peft.PeftModel) else copied)
