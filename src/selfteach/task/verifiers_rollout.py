"""One rollout of a verifiers environment, run by the library itself, that waits for its turns from outside.

The environment's own ``run_rollout`` runs in an event loop beside this thread. The client that it is given makes no
request of a server: it hands the request out and waits. So state, tools, conditions to stop, rubric and clean-up are
the library's (verifiers 0.1.11 to 0.3), and all rollouts of a process share a loop, as they do there.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from queue import SimpleQueue
from typing import Any

MODEL = "selfteach"
"""The name of the policy that an environment is told."""


@dataclass(frozen=True)
class Request:
    """What a model server would be asked: messages and tools, in OpenAI's form."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]


class Rollout:
    """The rollout of a ``row`` of the environment's dataset.

    ``next`` waits for its next request, or for its output (the library's ``RolloutOutput``) when it is over, and raises
    what the environment raised. ``answer`` gives the assistant's message to the last request.
    """

    def __init__(self, environment: Any, row: Mapping[str, Any]) -> None:
        self.events: SimpleQueue[Request | Future[Mapping[str, Any]]] = SimpleQueue()
        self.waiting: asyncio.Future[Any] | None = None
        client = client_class()(self)
        sampling = copy.deepcopy(environment.sampling_args)
        running = environment.run_rollout(row, client, MODEL, sampling)
        self.running: Future[Mapping[str, Any]] = asyncio.run_coroutine_threadsafe(running, loop())
        self.running.add_done_callback(self.events.put)

    def next(self) -> Request | Mapping[str, Any]:
        event = self.events.get()
        return event if isinstance(event, Request) else event.result()

    def answer(self, message: Mapping[str, Any]) -> None:
        completion = completion_of(message)

        def deliver() -> None:
            if self.waiting is not None and not self.waiting.done():  # it is, where the rollout has timed out
                self.waiting.set_result(completion)

        loop().call_soon_threadsafe(deliver)

    def close(self) -> None:
        """End it where it stands; the library cleans up."""
        self.running.cancel()

    async def asked(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> Any:
        if self.waiting is not None:
            raise RuntimeError(
                "the environment asks for two turns at a time: the policy writes one conversation"
            )
        self.waiting = asyncio.get_running_loop().create_future()
        self.events.put(Request(messages, tools))
        try:
            return await self.waiting
        finally:
            self.waiting = None


@functools.cache
def loop() -> asyncio.AbstractEventLoop:
    """The event loop of all rollouts, which runs as long as the process."""
    made = asyncio.new_event_loop()

    def run() -> None:
        while True:
            with suppress(SystemExit):  # of one environment, whose rollout ends with it: the others go on
                made.run_forever()

    threading.Thread(target=run, daemon=True, name="verifiers").start()
    return made


@functools.cache
def client_class() -> Any:
    """The library's client of chat completions, which makes OpenAI's form of its messages, with our answer."""

    async def get_native_response(
        self: Any, prompt: Any, model: str, sampling_args: Any, tools: Any = None, **_: Any
    ) -> Any:
        return await self.client.asked(prompt, tools or ())

    base = import_module("verifiers.clients").OpenAIChatCompletionsClient
    return type("PolicyClient", (base,), {"get_native_response": get_native_response})


def completion_of(message: Mapping[str, Any]) -> Any:
    """An assistant's message as a server gives it, of a turn that ended by itself."""
    reason = "tool_calls" if message.get("tool_calls") else "stop"
    choice = {"index": 0, "finish_reason": reason, "message": message}
    given = {"id": MODEL, "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}
    return import_module("openai.types.chat").ChatCompletion.model_validate(given)
