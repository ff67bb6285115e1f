"""A tiny random Llama with a character tokenizer, in an ordinary model folder: the tests' real model."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>")
CHARACTERS = "\n" + string.printable[:95] + "°é"
CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif -%}"
    "{%- endif -%}"
)


def tiny_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """One token a character, four special tokens, ``<|im_end|>`` ends a turn."""
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *CHARACTERS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_model(
    vocabulary: int, *, seed: int = 0, width: int = 64, layers: int = 2, tied: bool = True
) -> LlamaForCausalLM:
    """A random Llama of head size 32, float32, in evaluation mode; the same weights for the same seed."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        head_dim=32,
        max_position_embeddings=1024,
        initializer_range=0.1,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=SPECIAL.index("<|im_end|>"),
        pad_token_id=SPECIAL.index("<pad>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def tiny_model_folder(
    path: str | Path,
    *,
    seed: int = 0,
    width: int = 64,
    layers: int = 2,
    tied: bool = True,
    padding: int = 10,
    template: str | None = CHATML,
) -> Path:
    """Save a tiny model and its tokenizer to ``path``; the matrices have ``padding`` rows no token uses."""
    path = Path(path)
    tokenizer = tiny_tokenizer(template)
    tiny_model(len(tokenizer) + padding, seed=seed, width=width, layers=layers, tied=tied).save_pretrained(
        path
    )
    tokenizer.save_pretrained(path)
    return path
