"""Models made on the spot: random weights with a tokenizer of whole words, and teachers that differ a little."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<unk>", "<user>", "<assistant>", "<end>"]
CHAT = """\
{%- for message in messages -%}{{- '<' + message.role + '> ' + message.content + ' ' -}}
{%- if message.role == 'assistant' -%}{{- '<end> ' -}}{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<assistant> ' -}}{%- endif -%}
"""


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose every id means a word of its own (``w0`` …), so that no column of the head lies idle."""
    names = [*SPECIAL, *(f"w{i}" for i in range(vocabulary - len(SPECIAL)))]
    tokenizer = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>",
        additional_special_tokens=["<user>", "<assistant>"], chat_template=CHAT,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def random_model(config: dict[str, Any], folder: Path, seed: int = 0) -> Path:
    """A folder of random weights in float32, made once."""
    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(seed)
    settings = {key: value for key, value in config.items() if key != "model_type"}
    made = AutoConfig.for_model(
        config["model_type"], **settings, eos_token_id=4, pad_token_id=0, bos_token_id=None
    )
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    AutoModelForCausalLM.from_config(made, dtype=torch.float32).save_pretrained(aside)
    word_tokenizer(config["vocab_size"]).save_pretrained(aside)
    aside.rename(folder)
    return folder


def disturbed(model: Path, folder: Path, share: float = 0.1, seed: int = 0) -> Path:
    """A copy of a model with noise of ``share`` of each matrix's standard deviation: a teacher of its own weights
    for trainers that show teacher and student the same prompt, where an equal one would leave nothing to learn."""
    if (folder / "config.json").exists():
        return folder
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(model, aside, ignore=shutil.ignore_patterns("*.safetensors*"))
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for file in sorted(model.glob("*.safetensors")):
        tensors |= load_file(file)
    for name, value in tensors.items():
        if value.ndim == 2:
            noise = torch.randn(value.shape, generator=generator) * share * float(value.float().std())
            tensors[name] = (value + noise.to(value.dtype)).contiguous()
    save_file(tensors, aside / "model.safetensors", metadata={"format": "pt"})
    aside.rename(folder)
    return folder
