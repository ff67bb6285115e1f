"""How public data sets name their columns: a table, and which row of it a source fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfteach.task.composed import plain
from selfteach.task.conversation import transcribed

PEEKED = 20
"""So many rows are looked at where the names of the columns do not tell."""


BESIDE = frozenset(
    {"prompt", "id", "index", "prompt_id", "source", "data_source", "dataset", "category", "tag", "language"}
)
"""Columns that say nothing of an answer."""


@dataclass(frozen=True)
class Layout:
    """``columns``: those that must be there, whatever their case. The rest: which of them, or which field of one
    (``reward_model.ground_truth``), is the problem, the solution and the answer; None: there is none."""

    name: str
    columns: frozenset[str]
    problem: str
    solution: str | None
    answer: str | None
    fits: Callable[[Sequence[Mapping[str, Any]]], bool] | None = None
    """Asked of the first rows where the names alone do not tell."""
    extra: tuple[str, ...] = ()
    """Further columns that become private fields."""
    replies: tuple[str, ...] = ()
    """Those of ``extra`` whose cell may be a conversation: its last reply counts."""


def _layout(
    name: str, columns: str, problem: str, solution: str | None, answer: str | None, **more: Any
) -> Layout:
    return Layout(name, frozenset(columns.split()), problem, solution, answer, **more)


def _behind_hashes(rows: Sequence[Mapping[str, Any]]) -> bool:
    return bool(rows) and all("####" in str(row.get("answer")) for row in rows)


def _nothing_else(rows: Sequence[Mapping[str, Any]]) -> bool:
    """No column that might be an answer stands beside the prompt."""
    return bool(rows) and {name for row in rows for name in row} <= BESIDE


def _has_worked_answer(rows: Sequence[Mapping[str, Any]]) -> bool:
    """verl's examples for GSM8K and MATH keep the worked answer beside the prompt."""
    extras = [row.get("extra_info") for row in rows]
    return bool(extras) and all(
        isinstance(one, Mapping) and isinstance(one.get("answer"), str) for one in extras
    )


def _chosen_talk(rows: Sequence[Mapping[str, Any]]) -> bool:
    """A chosen answer that is a conversation holds its prompt too."""
    return bool(rows) and all(_is_talk(row.get("chosen")) for row in rows)


def _is_talk(cell: Any) -> bool:
    return isinstance(plain(cell), list) or (isinstance(cell, str) and transcribed(cell) is not None)


DEFAULT = "problem and solution"
REJECTED: Mapping[str, Any] = {"extra": ("rejected",), "replies": ("rejected",)}

LAYOUTS: tuple[Layout, ...] = (
    # MATH (hendrycks/competition_math: problem, level, type, solution), MATH-500 (HuggingFaceH4/MATH-500: and answer,
    # subject, unique_id), NuminaMath (AI-MO/NuminaMath-CoT: source, problem, solution, messages; -1.5: and answer),
    # OpenR1-Math, DeepScaleR, Omni-MATH, OPSD's set of OpenThoughts (problem, solution, Answer),
    # AIME (Maxwell-Jia/AIME_2024: ID, Problem, Solution, Answer; HuggingFaceH4/aime_2024: and url, year).
    _layout(DEFAULT, "problem solution", "problem", "solution", "answer"),
    # openai/gsm8k: question, answer; the answer is the working, and '#### 32' at its end.
    _layout("GSM8K", "question answer", "question", "answer", "answer", fits=_behind_hashes),
    # verl's Parquet files (examples/data_preprocess: data_source, prompt, ability, reward_model, extra_info), and
    # DAPO-Math (BytedTsinghua-SIA/DAPO-Math-17k), which is in them.
    _layout(
        "verl with worked answers",
        "prompt reward_model extra_info",
        "prompt",
        "extra_info.answer",
        "reward_model.ground_truth",
        fits=_has_worked_answer,
    ),
    _layout("verl", "prompt reward_model", "prompt", None, "reward_model.ground_truth"),
    # nvidia/OpenMathInstruct-2: problem, generated_solution, expected_answer, problem_source.
    _layout(
        "OpenMathInstruct",
        "problem generated_solution expected_answer",
        "problem",
        "generated_solution",
        "expected_answer",
    ),
    # open-thoughts/OpenThoughts-114k, subset metadata: problem, deepseek_solution, ground_truth_solution, domain …
    _layout("OpenThoughts metadata", "problem deepseek_solution", "problem", "deepseek_solution", None),
    # zwhe99/DeepMath-103K: question, final_answer, r1_solution_1 …
    _layout("DeepMath", "question final_answer r1_solution_1", "question", "r1_solution_1", "final_answer"),
    # meta-math/MetaMathQA: query, response (which ends in 'The answer is: 7').
    _layout("MetaMath", "query response", "query", "response", None),
    _layout("question and solution", "question solution", "question", "solution", "answer"),
    # Without solutions: math-ai/aime25 and POLARIS (problem, answer), opencompass/AIME2025 (question, answer).
    _layout("problem and answer", "problem answer", "problem", None, "answer"),
    _layout("problem and expected answer", "problem expected_answer", "problem", None, "expected_answer"),
    _layout("question and answer", "question answer", "question", None, "answer"),
    # FlashRAG's sets, as Search-R1 reads them (RUC-NLPIR/FlashRAG_datasets: id, question, golden_answers, a list).
    _layout("question and golden answers", "question golden_answers", "question", None, "golden_answers"),
    # TRL's pairs of a chosen and a rejected answer: with a prompt, text or messages, or in whole conversations, as
    # messages or (Anthropic/hh-rlhf) as transcripts. The
    # chosen one is the solution, the other a private field (DPO).
    _layout("preference pairs", "prompt chosen rejected", "prompt", "chosen", "answer", **REJECTED),
    _layout(
        "preference pairs in conversations",
        "chosen rejected",
        "chosen",
        "chosen",
        "answer",
        fits=_chosen_talk,
        **REJECTED,
    ),
    # What a model answered, and what its user wrote then (user-interactions): nobody grades it.
    *(
        _layout(
            "logged interactions",
            f"{problem} response followup",
            problem,
            None,
            None,
            extra=("response", "followup"),
        )
        for problem in ("prompt", "problem", "question", "messages")
    ),
    # TRL's prompt-completion pairs, and the columns of its examples for verifiable rewards.
    _layout("prompt and completion", "prompt completion", "prompt", "completion", "answer"),
    _layout("prompt and solution", "prompt solution", "prompt", "solution", "answer"),
    _layout("prompt and answer", "prompt answer", "prompt", None, "answer"),
    _layout("prompt and ground truth", "prompt ground_truth", "prompt", None, "ground_truth"),
    # Whole conversations: open-thoughts/OpenThoughts-114k and OpenThoughts3 (conversations of from and value), chat
    # data of Hugging Face (messages of role and content). The last reply is the solution.
    _layout("conversations", "conversations", "conversations", "conversations", "answer"),
    _layout("messages", "messages", "messages", "messages", "answer"),
    _layout("conversation", "conversation", "conversation", "conversation", "answer"),
    _layout("question and response", "question response", "question", "response", None),
    # TRL's prompts alone: for a reward function of one's own, or a method without rewards.
    _layout("prompts alone", "prompt", "prompt", None, None, fits=_nothing_else),
)
"""The first that fits counts."""


def recognized(columns: Iterable[str], head: Callable[[], Sequence[Mapping[str, Any]]]) -> Layout | None:
    """The layout of a source with these columns; ``head`` gives its first rows, by column names in small letters."""
    known = {column.casefold() for column in columns}
    rows: Sequence[Mapping[str, Any]] | None = None
    for layout in LAYOUTS:
        if layout.columns <= known:
            if layout.fits is None:
                return layout
            rows = head() if rows is None else rows
            if layout.fits(rows):
                return layout
    return None
