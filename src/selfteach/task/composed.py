"""Public layouts whose problem, solution or answer stands in several columns: what is made of a row."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfteach.errors import UserError
from selfteach.outside import with_type
from selfteach.task.reading import Row, Source

Cells = Mapping[str, Any]
LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class Composed:
    """``columns``: those that must be there, whatever their case; ``make`` gives the cells ``problem``, ``solution``
    and ``answer`` (those that there are) of a row whose columns are in small letters; ``fits`` is asked of the first
    rows where the names alone do not tell."""

    name: str
    columns: frozenset[str]
    gives: tuple[str, ...]
    make: Callable[[Cells], Cells]
    fits: Callable[[Sequence[Cells]], bool] = lambda rows: True


def plain(value: Any) -> Any:
    """NumPy's arrays, as pandas reads Parquet, as lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def paragraphs(*parts: Any) -> str | None:
    """The texts that are not blank, with a blank line between them; None if there is none."""
    texts = [part.strip() for part in parts if isinstance(part, str) and part.strip()]
    return "\n\n".join(texts) or None


# --- instructions -----------------------------------------------------------------------------------------------------


def instructed(context: str, output: str) -> Callable[[Cells], Cells]:
    """Alpaca's and Dolly's rows: an instruction, perhaps with what it is about, and the output."""
    return lambda row: {
        "problem": paragraphs(row["instruction"], row.get(context)),
        "solution": row[output],
    }


def under_a_system_prompt(row: Cells) -> Cells:
    said = [("system", row["system_prompt"]), ("user", row["question"])]
    messages = [
        {"role": role, "content": text} for role, text in said if isinstance(text, str) and text.strip()
    ]
    return {"problem": messages, "solution": row["response"]}


def approved(row: Cells) -> Cells:
    """A completion that was marked as bad is no solution."""
    return {"problem": row["prompt"], "solution": row["completion"] if plain(row["label"]) else None}


def judged(row: Cells) -> Cells:
    """A completion with its label as text, be it good or bad."""
    label = plain(row["label"])
    said = label.strip().casefold() if isinstance(label, str) else label
    if said not in (True, False, "true", "false"):  # 1 and 0 are equal to these
        raise ValueError(f"label is {label!r}, neither true nor false")
    good = said if isinstance(said, str) else str(bool(said)).casefold()
    asked = row["prompt"] if row.get("prompt") is not None else row.get("problem")
    return {"problem": asked, "completion": row["completion"], "label": good}


# --- choices ----------------------------------------------------------------------------------------------------------


def letter_of(answer: Any, options: Sequence[str], labels: Sequence[str] = LETTERS) -> str | None:
    """The letter (A, B …) of an answer that is a number from 0, a letter, a label of the data's own, or an option."""
    answer = plain(answer)
    if isinstance(answer, str) and answer.strip():
        text = answer.strip()
        for known in (labels[: len(options)], LETTERS[: len(options)], options):
            if text in known:
                return LETTERS[list(known).index(text)]
        answer = int(text) if text.isdecimal() else None
    known_number = isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options)
    return LETTERS[answer] if known_number and isinstance(answer, int) else None


def chosen(question: Any, options: Sequence[str], answer: Any, labels: Sequence[str] = LETTERS) -> Cells:
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return {"problem": paragraphs(question, lines), "answer": letter_of(answer, options, labels)}


def of_a_list(options: str, answer: str, question: str = "question") -> Callable[[Cells], Cells]:
    return lambda row: chosen(row[question], [str(one) for one in plain(row[options])], row[answer])


def of_labeled(row: Cells) -> Cells:
    """ARC's and CommonsenseQA's: options with labels of their own, A or 1."""
    found = row["choices"]
    labels = [str(one) for one in plain(found["label"])]
    return chosen(row["question"], [str(one) for one in plain(found["text"])], row["answerkey"], labels)


def of_columns(row: Cells) -> Cells:
    return chosen(row["question"], [str(row[name]) for name in "abcd"], row["answer"])


def all_lists(column: str) -> Callable[[Sequence[Cells]], bool]:
    return lambda rows: (
        bool(rows)
        and all(
            isinstance(one := plain(row.get(column)), list) and 1 < len(one) <= len(LETTERS) for row in rows
        )
    )


def labeled(rows: Sequence[Cells]) -> bool:
    return bool(rows) and all(
        isinstance(one := row.get("choices"), Mapping) and {"text", "label"} <= set(one) for row in rows
    )


# --- texts with questions ---------------------------------------------------------------------------------------------


def passages(context: Any) -> str | None:
    """HotpotQA's context, titles and sentences, as text: a paragraph a title."""
    context = plain(context)
    if isinstance(context, str):
        return context
    if isinstance(context, Mapping):
        pairs = list(zip(plain(context["title"]), plain(context["sentences"]), strict=False))
    else:
        pairs = [(one[0], one[1]) for one in context or ()]
    return paragraphs(*(f"{title}: {''.join(plain(said))}" for title, said in pairs))


def about_passages(row: Cells) -> Cells:
    return {"problem": paragraphs(passages(row["context"]), row["question"]), "answer": row["answer"]}


def about_a_text(row: Cells) -> Cells:
    """SQuAD's: the first of the answers that were given counts."""
    texts = plain(row["answers"]["text"])
    answer = texts[0] if len(texts) else None
    return {"problem": paragraphs(row["context"], row["question"]), "answer": answer}


def with_answer_texts(rows: Sequence[Cells]) -> bool:
    return bool(rows) and all(
        isinstance(one := row.get("answers"), Mapping) and "text" in one for row in rows
    )


def with_passages(rows: Sequence[Cells]) -> bool:
    return bool(rows) and all(isinstance(plain(row.get("context")), str | list | Mapping) for row in rows)


PROBLEM, SOLUTION, ANSWER = "problem", "solution", "answer"
LABELED = "prompt, completion and label"


def _composed(
    name: str, columns: str, gives: tuple[str, ...], make: Callable[[Cells], Cells], **more: Any
) -> Composed:
    return Composed(name, frozenset(columns.split()), gives, make, **more)


COMPOSED: tuple[Composed, ...] = (
    # tatsu-lab/alpaca: instruction, input, output, text.
    # databricks/databricks-dolly-15k: instruction, context, response, category.
    _composed("Alpaca", "instruction output", (PROBLEM, SOLUTION), instructed("input", "output")),
    _composed("Dolly", "instruction response", (PROBLEM, SOLUTION), instructed("context", "response")),
    # Open-Orca/OpenOrca: id, system_prompt, question, response.
    _composed("OpenOrca", "system_prompt question response", (PROBLEM, SOLUTION), under_a_system_prompt),
    # TRL's unpaired preferences (KTO): prompt, completion, label.
    _composed(LABELED, "prompt completion label", (PROBLEM, SOLUTION), approved),
    # cais/mmlu: question, subject, choices, answer (a number).
    # TIGER-Lab/MMLU-Pro: question, options, answer (a letter), answer_index …
    _composed(
        "MMLU",
        "question choices answer",
        (PROBLEM, ANSWER),
        of_a_list("choices", "answer"),
        fits=all_lists("choices"),
    ),
    _composed(
        "MMLU-Pro",
        "question options answer",
        (PROBLEM, ANSWER),
        of_a_list("options", "answer"),
        fits=all_lists("options"),
    ),
    # allenai/ai2_arc, commonsense_qa: question, choices of text and label, answerKey.
    _composed("ARC", "question choices answerkey", (PROBLEM, ANSWER), of_labeled, fits=labeled),
    # MMLU as tables: question, A, B, C, D, answer.
    _composed("question with A, B, C, D", "question a b c d answer", (PROBLEM, ANSWER), of_columns),
    # Rowan/hellaswag: ctx, endings, label (the number of the right one).
    _composed(
        "HellaSwag",
        "ctx endings label",
        (PROBLEM, ANSWER),
        of_a_list("endings", "label", "ctx"),
        fits=all_lists("endings"),
    ),
    # hotpotqa/hotpot_qa: question, answer, context of title and sentences, supporting_facts.
    _composed("HotpotQA", "question answer context", (PROBLEM, ANSWER), about_passages, fits=with_passages),
    # rajpurkar/squad: id, title, context, question, answers of text and answer_start.
    _composed("SQuAD", "question context answers", (PROBLEM, ANSWER), about_a_text, fits=with_answer_texts),
)
"""The first that fits counts. Those of ``layouts``, which need no making, are asked after these."""


UNPAIRED = _composed("unpaired preferences", "completion label", (PROBLEM, "completion", "label"), judged)
"""Where it is asked for (``TaskOptions.unpaired``): the rows of ``LABELED``, whatever their label."""


def composed_of(
    source: Source, head: Callable[[], Sequence[Cells]], layouts: Sequence[Composed] = COMPOSED
) -> Composed | None:
    """The layout of these that a source is in; ``head`` gives its first rows, by column names in small letters."""
    known = {column.casefold() for column in source.columns}
    if PROBLEM in known:
        return None
    rows: Sequence[Cells] | None = None
    for layout in layouts:
        if layout.columns <= known:
            rows = head() if rows is None else rows
            if layout.fits(rows):
                return layout
    return None


def made(source: Source, layout: Composed) -> Source:
    """The source with the cells that the layout makes beside its own; one of the same name is the made one."""
    own = [column for column in source.columns if column.casefold() not in layout.gives]

    def rows(columns: Sequence[str]) -> Iterator[Row]:
        for number, row in source.rows(list(source.columns)):
            try:
                cells = layout.make({name.casefold(): value for name, value in row.items()})
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise UserError(
                    f"{source.label}, row {number}: not as {layout.name} has it ({with_type(error)}); "
                    "mend it, or name the columns (problem_column …)"
                ) from None
            yield number, {**{name: row.get(name) for name in columns}, **cells}

    return replace(source, columns=(*layout.gives, *own), rows=rows)
