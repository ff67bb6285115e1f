"""Environments of the library verifiers as its users write them, for tests; nothing of selfteach is imported here."""

from __future__ import annotations

from typing import Any

import verifiers as vf
from datasets import Dataset


def rows(count: int, begin: int = 0) -> Dataset:
    numbers = range(begin, begin + count)
    return Dataset.from_list(
        [{"question": f"{i} + {i + 1} = ?", "answer": str(2 * i + 1), "info": {"first": i}} for i in numbers]
    )


async def exact(parser: Any, completion: Any, answer: str) -> float:
    return float(parser.parse_answer(completion) == answer)


def near(parser: Any, completion: Any, info: Any) -> float:
    """Of a kind of its own, so that sums of weights are seen: a third of what was said, less what the row has."""
    said = parser.parse_answer(completion) or ""
    return float(said) / 3 - info["first"] if said.isdigit() else -1.5


def length(completion: Any) -> float:
    return float(len(completion[-1]["content"] or ""))


def single() -> Any:
    parser = vf.XMLParser(["think", "answer"])
    rubric = vf.Rubric(funcs=[exact, near, length], weights=[1.0, 0.3, 0.0], parser=parser)
    return vf.SingleTurnEnv(
        dataset=rows(20), system_prompt="Answer in <answer> tags.", parser=parser, rubric=rubric
    )


class Guessing(vf.MultiTurnEnv):
    """Guess the answer. Ends with a last word when it is found or given up, by a condition of its own when a turn
    says nothing, or when all turns are used up."""

    async def setup_state(self, state: Any) -> Any:
        state["guesses"] = []
        return state

    @vf.stop
    async def says_nothing(self, state: Any) -> bool:
        return bool(state["trajectory"]) and state["trajectory"][-1]["completion"][-1]["content"] == "nothing"

    async def env_response(self, messages: Any, state: Any, **kwargs: Any) -> Any:
        said = messages[-1]["content"].strip()
        if said == "break":
            raise ZeroDivisionError("out\nof order")
        if said == "infra":
            raise vf.InfraError("no sandbox")
        if said == "exit":
            raise SystemExit(3)
        if said == "picture":
            part = {"type": "image_url", "image_url": {"url": "data:,"}}
            return [{"role": "user", "content": [part]}]
        state["guesses"].append(said)
        if said in ("give up", state["answer"]):
            state["final_env_response"] = [{"role": "user", "content": "It was " + state["answer"]}]
            return state["final_env_response"]
        return [
            {"role": "user", "content": "no"},
            {"role": "user", "content": f"{len(state['guesses'])} so far"},
        ]


def quick(state: Any) -> float:
    return 1 / len(state["trajectory"]) if state["guesses"] and state["guesses"][-1] == state["answer"] else 0


def success(state: Any) -> float:
    """A name that selfteach counts already."""
    return float(quick(state) > 0)


def multi(**settings: Any) -> Any:
    rubric = vf.Rubric(funcs=[quick, success, lambda state: 0.125])
    return Guessing(dataset=rows(8), eval_dataset=rows(4, begin=6), max_turns=4, rubric=rubric, **settings)


def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


def fail(why: str) -> str:
    """Always fails."""
    raise ValueError(f"failed: {why}")


def ends_with_answer(completion: Any, answer: str) -> float:
    return float(answer in (completion[-1]["content"] or ""))


def tools(**settings: Any) -> Any:
    rubric = vf.Rubric(funcs=[ends_with_answer])
    return vf.ToolEnv(dataset=rows(8), tools=[add, fail], rubric=rubric, max_turns=5, **settings)


def group() -> Any:
    return vf.EnvGroup([single(), tools()], env_names=["single", "tools"])


def load_environment() -> Any:
    """Behind a ``--task``."""
    return multi()
