"""What of a model's folder is read: safetensors, JSON and templates. What could run code is refused by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from selfteach.errors import UserError
from selfteach.hub import hub_at_hand
from selfteach.outside import read_json, said_by
from selfteach.task.patterns import first_found

READ = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
"""Files of a hub's repository that are fetched; the model's own code only where it is trusted."""
LEFT = ("*/*", "consolidated*", "*.fp16.safetensors", "*.bin.index.json")
"""The same weights in other forms."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CODE = ("attn_implementation", "experts_implementation", "kernel_config", "use_kernels")
"""Settings by which a config names compiled code of the hub."""


def folder_of(model: str, revision: str | None, trusted: bool) -> Path:
    """The folder of a model: itself, or where the hub's files of that name are kept. UserError where there is none."""
    if os.path.isdir(model):
        return Path(model)
    from huggingface_hub import snapshot_download

    own = ("*.py",) if trusted else ()
    with hub_at_hand() as silent:
        try:
            return Path(
                snapshot_download(
                    model,
                    revision=revision,
                    allow_patterns=[*READ, *own],
                    ignore_patterns=None if trusted else list(LEFT),
                )
            )
        except Exception as problem:
            advice = "give the path of a model folder, or a name on the hub and a connection to it"
            why = silent or f"{type(problem).__name__}: {said_by(problem)}"
            raise UserError(f"model {model!r} cannot be loaded ({why}): {advice}.") from problem


def require_plain(folder: Path, model: str) -> None:
    """UserError unless the weights are safetensors within the folder, and its config names no code of elsewhere."""
    config = table(folder / "config.json", model)
    for name, value in settings_of(config):
        if name.removeprefix("_").removesuffix("_internal") in CODE and names_code(value):
            raise UserError(
                f"model {model!r}: its config.json asks for code of the hub ({name} {value!r}): take that line out."
            )
    file = config.get("transformers_weights")
    if file is not None:
        require_shard(str(file).replace(".index.json", ""), model, "config.json")
    for index in sorted(folder.glob("*.safetensors.index.json")):
        shards = table(index, model).get("weight_map")
        if not isinstance(shards, Mapping) or not shards:
            raise UserError(f"model {model!r}: {index.name} has no weight_map: get the folder again.")
        for shard in dict.fromkeys(map(str, shards.values())):
            require_shard(shard, model, index.name)
            if not (folder / shard).is_file():
                raise UserError(f"model {model!r}: {shard} is missing, which {index.name} names.")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(one.name for one in folder.iterdir() if one.suffix in PICKLES)
        held = (
            f"only {pickles[0]}, a pickle, which may run code when it is loaded" if pickles else "no weights"
        )
        raise UserError(f"model {model!r} holds {held}: save it as model.safetensors (save_pretrained does).")


def require_shard(name: str, model: str, where: str) -> None:
    """UserError for a file of weights that is no safetensors, or lies elsewhere."""
    if name != os.path.basename(name) or not name.endswith(".safetensors"):
        raise UserError(
            f"model {model!r}: {where} names {name!r} as weights: only .safetensors of the same folder are read."
        )


def adapter_of(folder: Path, model: str) -> dict[str, Any]:
    """What adapter_config.json says. UserError unless it is a LoRA adapter in safetensors."""
    if not (folder / "adapter_model.safetensors").is_file():
        pickled = (
            " (adapter_model.bin is a pickle, which may run code)"
            if (folder / "adapter_model.bin").exists()
            else ""
        )
        raise UserError(
            f"model {model!r} is a LoRA adapter without adapter_model.safetensors{pickled}: save it again."
        )
    config = table(folder / "adapter_config.json", model)
    if config.get("peft_type") != "LORA":
        raise UserError(
            f"model {model!r} is an adapter of type {config.get('peft_type')!r}: only LORA is loaded."
        )
    if config.get("megatron_config"):
        raise UserError(
            f"model {model!r}: its adapter_config.json asks for Megatron, a module to import: take it out."
        )
    return config


def require_quick(config: Mapping[str, Any], network: nn.Module, model: str) -> None:
    """UserError for a pattern of an adapter's config that its library would search names with for hours."""
    named = [config.get("target_modules"), config.get("exclude_modules")]
    patterns = [one for one in named if isinstance(one, str)]
    for field in ("rank_pattern", "alpha_pattern", "modules_to_save", "layers_pattern"):
        given = config.get(field) or ()
        patterns += [given] if isinstance(given, str) else map(str, given)
    for pattern in patterns:
        names = [name for name, _ in network.named_modules()]
        first_found(f"model {model!r}: adapter_config.json", [f"^(?:.*\\.)?(?:{pattern})$"], names)


def table(file: Path, model: str) -> dict[str, Any]:
    """The JSON object in a file of the model's folder."""
    found = read_json(file, f"model {model!r}: {file.name}", "get the folder again")
    if not isinstance(found, dict):
        raise UserError(f"model {model!r}: {file.name} is no JSON object: get the folder again.")
    return found


def settings_of(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every setting of a config and of the configs in it."""
    for name, value in config.items():
        yield name, value
        if isinstance(value, Mapping):
            yield from settings_of(value)


def names_code(value: Any) -> bool:
    """Whether the value of one of ``CODE`` is a repository (org/name), alone or among others, or switches them on."""
    if isinstance(value, Mapping):
        return any(map(names_code, value.values()))
    return value is True or (isinstance(value, str) and "/" in value)
