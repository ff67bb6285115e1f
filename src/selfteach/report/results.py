"""A results file (``results.json`` of a comparison, ``methods.json`` of studies), read and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from selfteach.errors import UserError
from selfteach.report.older import results_of_today
from selfteach.report.rows import parsed


class Part(BaseModel):
    """What a part of the file must hold; whatever else stands there is kept."""

    model_config = ConfigDict(extra="allow")


class Point(Part):
    step: float
    spent: float
    headline: float


class Run(Part):
    seed: int
    points: Annotated[list[Point], Field(min_length=1)]


class RecipeRow(Part):
    runs: Annotated[list[Run], Field(min_length=1)]
    start: float
    headline: float
    headline_se: float | None = None
    steps: float
    spent: float
    training_seconds: float


class Side(Part):
    variant: str
    by_seed: Annotated[list[float], Field(min_length=1)]


class ClaimResult(Part):
    method: str
    says: str
    metric: str
    rule: str
    verdict: str
    caveat: str | None = None
    higher: Side
    lower: Side


class Results(Part):
    task: str
    model: str = ""
    equal: str = "steps"
    seeds: int = 0
    command: str = ""
    versions: dict[str, Any] = Field(default_factory=dict)
    headline: str
    unit: str
    recipes: dict[str, RecipeRow]
    claims: list[ClaimResult] | None = None
    notes: list[str] = Field(default_factory=list)


def read_results(path: Path) -> dict[str, Any]:
    """A results file, in today's names. Raises ``UserError`` if it is none."""
    try:
        whole = Results.model_validate(results_of_today(parsed(path.read_bytes())))
    except OSError as error:
        raise UserError(
            f"{path} could not be read ({error.strerror}); give a run folder or a results file"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(one)[:60] for one in first["loc"])
        raise UserError(_refused(path, f"{place}: {first['msg']}")) from None
    except (KeyError, TypeError, AttributeError):
        raise UserError(_refused(path, "recipes or claims of no known shape")) from None
    found = whole.model_dump()
    if whole.claims is None:
        del found["claims"]
    return found


def _refused(path: Path, why: str) -> str:
    wanted = "give a run folder, or the results.json of compare or the methods.json of study"
    return f"{path} holds no results ({why}); {wanted}"
