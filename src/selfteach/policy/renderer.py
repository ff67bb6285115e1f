"""The only way from messages to tokens, and from tokens back to text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from selfteach.errors import UserError
from selfteach.outside import blamed, read_text
from selfteach.policy.templates import LONGEST, TemplateFault, rendered
from selfteach.policy.tool_messages import WORD, Knows, as_data, has_tools
from selfteach.policy.wording import left_out, quoted
from selfteach.task.example import Message
from selfteach.task.tool_calls import MARKS

PLAIN = (
    "{%- for message in messages -%}"
    "{{ message.role | capitalize + ': ' + message.content }}"
    "{{ eos_token if message.role == 'assistant' else '' }}{{ '\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}"
)
"""For a tokenizer without a chat template: ``User: …`` and ``Assistant: …`` lines, an answer ended by eos."""

_EMPTY_THOUGHT = re.compile(r"<think>\s*</think>\s*$")
_PROBE: Message = {"role": "user", "content": "?"}
_REMEMBERED = 8192
"""Conversations whose token ids are kept: some batches' worth of prompts and views."""

Conversation = tuple[tuple[str, str], ...]


class Renderer(Protocol):
    """Messages ↔ token ids. What a model wrote stays the ids it wrote: they are never made from its text again."""

    tokenizer: PreTrainedTokenizerBase
    template: str
    stop_ids: frozenset[int]
    end_of_turn: int | None
    pad_id: int
    vocabulary: int
    is_plain: bool
    knows_thinking: bool

    def prompt_ids(
        self, messages: Sequence[Message], thinking: bool | None = None, prefill: str | None = None
    ) -> list[int]: ...

    def completion_ids(self, text: str, thinking: bool | None = None) -> list[int]: ...

    def following_ids(
        self, messages: Sequence[Message], thinking: bool | None = None, *, finished: bool = True
    ) -> list[int]: ...

    def extends(
        self,
        before: Sequence[Message],
        reply: str,
        messages: Sequence[Message],
        thinking: bool | None = None,
    ) -> bool: ...

    def text(self, ids: Sequence[int]) -> str: ...

    def show(self, ids: Sequence[int]) -> str: ...


class ChatRenderer:
    """A tokenizer with its chat template: prompts, replies to imitate, and where a turn ends.

    ``template`` replaces the tokenizer's own: the path of a Jinja file, or ``plain``. A tokenizer that has
    none gets the plain one, and ``is_plain`` tells the caller to say so. ``end_of_turn`` is the special token
    that the template ends a turn with (None: it has none); ``stop_ids`` are it, eos, and the tokens that end a
    sequence by the model's generation settings alone. Templates run in transformers' sandbox in a
    process of their own (``templates.py``), and a control
    token spelled out in a message (``<|im_end|>`` in a data file) is broken up by a space, so that no text
    forges a turn. Each distinct conversation is rendered once (the last few thousand are remembered).

    Raises UserError if the template file cannot be read, does not parse, or if no token can end a turn.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: str | None = None, stop_ids: Iterable[int] = ()
    ) -> None:
        self.tokenizer = tokenizer
        self.template = _template(tokenizer, template)
        self._named = "The chat template" + ("" if template in (None, "plain") else f" {template}")
        self.is_plain = self.template == _with_bos(PLAIN, tokenizer)
        self.knows_thinking = "enable_thinking" in self.template
        self._control = control_tokens(tokenizer)
        self._spelled_out = spelled_out(self._control)
        self.end_of_turn, ends = self._end_of_turn()
        self._spelled_out = spelled_out({**self._control, **ends})
        added = [one.content for one in tokenizer.added_tokens_decoder.values()]
        self._any_added = spelled_out(
            {*self._control, *ends, *(one for one in added if len(one.strip()) > 1)}
        )
        self._marks = {token: self._control[token] for token in MARKS if token in self._control}
        stops = (*stop_ids, tokenizer.eos_token_id, self.end_of_turn)
        self.stop_ids: frozenset[int] = frozenset(token for token in stops if token is not None)
        if not self.stop_ids:
            raise UserError(
                "The tokenizer names no eos token and its chat template ends no turn with a special token: "
                "a rollout could never finish. Set eos_token in tokenizer_config.json."
            )
        self.pad_id: int = min(self.stop_ids) if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.vocabulary: int = max(tokenizer.get_vocab().values()) + 1
        self._prompt_ids = lru_cache(_REMEMBERED)(self._fresh_prompt_ids)
        self._following_ids = lru_cache(_REMEMBERED)(self._fresh_following_ids)

    def prompt_ids(
        self, messages: Sequence[Message], thinking: bool | None = None, prefill: str | None = None
    ) -> list[int]:
        """The conversation up to where the assistant speaks, plus ``prefill``, put into its mouth.

        ``thinking`` is handed to the template as ``enable_thinking`` (None: its own default). A template that
        opens ``<think>`` regardless gets it closed when ``thinking`` is False (PW-OPSD).
        """
        return list(self._prompt_ids(_content(messages), thinking, prefill))

    def completion_ids(self, text: str, thinking: bool | None = None) -> list[int]:
        """The tokens of ``text`` as the assistant's whole reply, up to and with its end-of-turn token.

        They are what the template renders after the generation prompt, so that
        ``prompt_ids(messages, thinking) + completion_ids(text, thinking)`` is the finished conversation.
        An empty thought that ends the prompt is not asked of the template again, which may forget it.
        Raises UserError where the template does not render the reply as a continuation of that prompt.
        """
        prompt = self._prompt([_PROBE], thinking)
        whole = self._render([_PROBE, {"role": "assistant", "content": text}], thinking, generation=False)
        begin = prompt if whole.startswith(prompt) else _EMPTY_THOUGHT.sub("", prompt)
        completion = whole.removeprefix(begin)
        # Calls that the template is handed as data are written anew.
        as_it_is = any(mark in text for mark in self._marks) or self._defused(text).strip() in completion
        if not whole.startswith(begin) or not as_it_is:
            raise UserError(
                "The chat template does not render a reply as the continuation of its own prompt (which ends "
                f"in {prompt[-20:]!r}; the conversation ends in {whole[-40:]!r}): give another chat_template."
            )
        prompt_ids, ids = self._encode(prompt), self._encode(whole)
        ids = ids[len(prompt_ids) :] if ids[: len(prompt_ids)] == prompt_ids else self._encode(completion)
        end = next((place for place, token in enumerate(ids) if token in self.stop_ids), None)
        if end is None:
            raise UserError(
                "The chat template ends the assistant's turn with no stop token, so a model trained on it "
                "would never stop: give another chat_template, or 'plain'."
            )
        return ids[: end + 1]

    def following_ids(
        self, messages: Sequence[Message], thinking: bool | None = None, *, finished: bool = True
    ) -> list[int]:
        """What stands between a finished turn of the assistant and its next one when ``messages`` come in between.

        ``prompt_ids(before) + ids the model wrote + following_ids(messages)`` is the conversation so far, up to where
        the assistant speaks again, with the model's ids as they were. Their stop token counts as the end of the turn;
        if they ran into a length limit (``finished`` False) the template's own end of turn comes first. Raises
        UserError where the template does not render the reply at all, leaves out words of ``messages``, or ends a turn
        with no stop token.
        """
        return list(self._following_ids(_content(messages), thinking, finished))

    def extends(
        self,
        before: Sequence[Message],
        reply: str,
        messages: Sequence[Message],
        thinking: bool | None = None,
    ) -> bool:
        """Whether the template renders ``before``, the assistant's ``reply`` and ``messages`` as the prompt that the
        reply was written after, the reply as it was written, and what follows it.

        False where it strips thoughts or trims the reply: then the next turn is sampled after other ids than those
        that were written, and is a row of its own.
        """
        after = self._after_reply(messages, thinking)
        if after is None:
            return False
        begun = self._prompt(before, thinking)
        # Control tokens stand in a text only where the template itself wrote them, from calls that it got as data.
        expected = {begun + self._defused(reply) + after, begun + reply + after}
        # Some templates put the space themselves that a model writes first (``Assistant: 4``).
        return any(
            self._prompt([*before, {"role": "assistant", "content": content}, *messages], thinking)
            in expected
            for content in {reply, reply.strip()}
        )

    def text(self, ids: Sequence[int]) -> str:
        """The text of ``ids`` without special tokens, but those that call a tool: what a verifier, an environment or a
        reader is given."""
        said = [token for token in ids if token != self.end_of_turn]
        if not any(token in said for token in self._marks.values()):
            return self._decode(said, skip=True)
        silent = set(self._control.values()) - set(self._marks.values())
        return self._decode([token for token in said if token not in silent], skip=False)

    def show(self, ids: Sequence[int]) -> str:
        """The text of ``ids`` with special tokens: what the model really sees."""
        return self._decode(ids, skip=False)

    def _fresh_prompt_ids(
        self, content: Conversation, thinking: bool | None, prefill: str | None
    ) -> list[int]:
        return self._encode(self._prompt(_messages(content), thinking) + self._defused(prefill or ""))

    def _fresh_following_ids(self, content: Conversation, thinking: bool | None, finished: bool) -> list[int]:
        after = self._after_reply(_messages(content), thinking)
        if after is None:
            raise UserError(
                "The chat template leaves out or rewrites what the assistant said before: give another chat_template."
            )
        ids = self._encode(after)
        end = next((place for place, token in enumerate(ids) if token in self.stop_ids), None)
        if end is None:
            raise UserError(
                "The chat template ends the assistant's turn with no stop token, so that nobody can tell where the "
                "next turn begins: give another chat_template, or 'plain'."
            )
        for lost in left_out(_messages(content), self.show(ids), self):
            raise UserError(
                f"The chat template leaves out the {lost['role']} message that follows a turn ({quoted(lost)}): give "
                "another chat_template."
            )
        return ids[end + 1 :] if finished else ids[end:]

    def _after_reply(self, messages: Sequence[Message], thinking: bool | None) -> str | None:
        """Everything behind the assistant's words, its end of turn included, up to where it speaks again; None where
        the template does not render what it said before."""
        reply = "selfteach"
        while any(reply in message["content"] for message in messages):
            reply += "+"
        text = self._prompt([_PROBE, {"role": "assistant", "content": reply}, *messages], thinking)
        _, found, after = text.partition(reply)
        return after if found else None

    def _prompt(self, messages: Sequence[Message], thinking: bool | None) -> str:
        text = self._render(messages, thinking, generation=True)
        left_open = thinking is False and text.rstrip().endswith("<think>")
        return text.rstrip() + "\n\n</think>\n\n" if left_open else text

    def _render(self, messages: Sequence[Message], thinking: bool | None, *, generation: bool) -> str:
        switch: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
        told: list[dict[str, Any]] = [{**one} for one in messages]
        tools: list[Any] | None = None
        if has_tools(messages):
            safe = [self._without_tokens(one) if one["role"] == "tool" else one for one in messages]
            told, tools = as_data(safe, self._knows, self._control)
        try:
            return rendered(
                self.template,
                self._all_defused(told),
                generation,
                {
                    **self.tokenizer.special_tokens_map,
                    **switch,
                    **({"tools": self._all_defused(tools)} if tools else {}),
                },
            )
        except TemplateFault as problem:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(
                f"{self._named} refuses a conversation of the roles [{roles}]: {problem}"
            ) from None

    @cached_property
    def _knows(self) -> Knows:
        """What of tools the template renders, tried out."""

        def shows(messages: list[dict[str, Any]], tools: list[Any] | None) -> bool:
            named = {**self.tokenizer.special_tokens_map, **({"tools": tools} if tools else {})}
            try:
                return WORD in rendered(self.template, messages, True, named)
            except TemplateFault:
                return False

        return Knows.of(self.template, shows)

    def _end_of_turn(self) -> tuple[int | None, dict[str, int]]:
        """The first control token after the assistant's words, and it by its text: base models' templates often end a
        turn with a token that is not their eos, and sampling would run on past it. One that stands right behind the
        words counts though the tokenizer's files forgot to call it special."""
        reply = "selfteach"
        text = self._render([_PROBE, {"role": "assistant", "content": reply}], None, generation=False)
        _, found, after = text.rpartition(reply)
        if not found:
            return None, {}
        added = {one.content: number for number, one in self.tokenizer.added_tokens_decoder.items()}
        forgotten = [one for one in added if one.strip() and after.lstrip().startswith(one)]
        named = {**self._control, **{one: added[one] for one in forgotten}}
        known = {number: one for one, number in named.items()}
        end = next((token for token in self._encode(after) if token in known), None)
        return end, {} if end is None else {known[end]: end}

    def _defused(self, text: str) -> str:
        return self._spelled_out.sub(_broken_up, text)

    def _all_defused(self, value: Any) -> Any:
        """A value of lists and tables with every text in it defused."""
        if isinstance(value, str):
            return self._defused(value)
        if isinstance(value, list):
            return [self._all_defused(one) for one in value]
        if isinstance(value, dict):
            return {self._defused(key): self._all_defused(one) for key, one in value.items()}
        return value

    def _without_tokens(self, message: Message) -> Message:
        content = self._any_added.sub(_broken_up, message["content"])
        return Message(role=message["role"], content=content)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _decode(self, ids: Sequence[int], *, skip: bool) -> str:
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        )


def _broken_up(token: re.Match[str]) -> str:
    return f"{token[0][0]} {token[0][1:]}"


def _content(messages: Sequence[Message]) -> Conversation:
    return tuple((message["role"], message["content"]) for message in messages)


def _messages(content: Conversation) -> list[Message]:
    return [{"role": role, "content": text} for role, text in content]


def _template(tokenizer: PreTrainedTokenizerBase, wanted: str | None) -> str:
    if wanted == "plain" or (wanted is None and not tokenizer.chat_template):
        return _with_bos(PLAIN, tokenizer)
    if wanted is not None:
        advice = "give the path of a Jinja file, or 'plain'"
        return read_text(wanted, f"chat_template {wanted!r}", advice, most=LONGEST)
    with blamed("The tokenizer's chat template", "give another one with chat_template"):
        own = str(tokenizer.get_chat_template())
    if len(own) > LONGEST:
        raise UserError(
            f"The tokenizer's chat template has {len(own):,} characters: at most {LONGEST:,} are read"
        )
    return own


def _with_bos(template: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A template carries its own bos token, if the tokenizer would have begun a text with one."""
    begins = tokenizer.bos_token_id is not None and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
    return "{{ bos_token }}" + template if begins else template


def spelled_out(tokens: Iterable[str]) -> re.Pattern[str]:
    """Finds any of them in a text, the longest where several begin."""
    longest = sorted(tokens, key=lambda token: -len(token))
    return re.compile("|".join(map(re.escape, longest)) or r"(?!)")


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Special tokens by their text, the longest first."""
    added = {
        token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    named = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    return dict(sorted({**added, **named}.items(), key=lambda entry: -len(entry[0])))
