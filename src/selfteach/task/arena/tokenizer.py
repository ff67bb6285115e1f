"""A tokenizer of single characters with a chat template, built without any download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import BatchEncoding, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from selfteach.task.example import Message

PAD, UNKNOWN, USER, ASSISTANT, END = SPECIAL = ["<pad>", "<unk>", "<user>", "<assistant>", "<end>"]
CHARACTERS = "\n" + "".join(c for c in map(chr, range(128)) if c.isprintable())

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{- '<user>' + message.content -}}
{%- elif message.role == 'assistant' -%}
{{- '<assistant>' -}}{%- generation -%}{{- message.content + '<end>' -}}{%- endgeneration -%}
{%- else -%}
{{- raise_exception('this model was taught user and assistant messages only, not ' + message.role) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each printable ASCII character and the line feed; five special tokens; ``<end>`` is EOS.

    The chat template marks the assistant's turns, their ``<end>`` included, for loss masks.
    """
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def encode(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]], **options: Any
) -> BatchEncoding:
    """Conversations through the chat template, as one padded batch of tensors [N, T]."""
    batch = tokenizer.apply_chat_template(
        [[{"role": m["role"], "content": m["content"]} for m in messages] for messages in conversations],
        padding=True,
        return_tensors="pt",
        return_dict=True,
        **options,
    )
    return cast(BatchEncoding, batch)
