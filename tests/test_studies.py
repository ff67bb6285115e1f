"""Studies: claims become runs, runs become verdicts."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from selfteach.cli import main
from selfteach.cli.train import run_of
from selfteach.errors import UserError
from selfteach.recipes import METHODS, NETWORK_RECIPES
from selfteach.recipes.critic import Critic
from selfteach.recipes.embodied import EmbodiedRecipe
from selfteach.recipes.parts import Adapter, GRPOSettings, Optimization, PerRecord, ReferenceProbe, Rollouts
from selfteach.studies import STUDIES, Exceeds, Leaning, Rule, Study, Within, Works, study_named
from selfteach.studies import fingerprint as fingerprints
from selfteach.studies import plan as plans
from selfteach.studies.answer import Answer, Open, answered, by_label, decided, resolution_of, set_up
from selfteach.studies.code import SHARED, code_files, file_of
from selfteach.studies.outdated import forget, mark, outdated
from selfteach.studies.plan import Plan, Side, StudySettings, Work, label_of, side_of
from selfteach.studies.results import mean_and_error
from selfteach.studies.rows import Row, Rows, height, numbers, row_of
from selfteach.studies.runner import Making, commands, missing, run_studies
from selfteach.studies.runs import Planned, cells, condensed
from selfteach.studies.study import Claim, built_on, column_of
from selfteach.studies.workers import Crew
from selfteach.task.opening import TaskOptions
from selfteach.training.config import Bookkeeping, Evaluation, Loading, TrainConfig
from selfteach.training.launch import table_of
from selfteach.training.rundir import RunFolder
from selfteach.words import taken

VARIANTS = {"a": "sft --steps 2", "b": "sft --steps 1"}
BUILT = {"teacher": "opsd", "student": "exopd --teacher {variant teacher}/model"}


def claim(
    variants: Mapping[str, str] = VARIANTS,
    higher: str = "a",
    lower: str = "b",
    metric: str = "eval/headline",
    rule: Rule | None = None,
    **more: Any,
) -> Claim:
    return Claim("a beats b", variants, higher, lower, metric, rule or Exceeds(), **{"sweep": (), **more})


def built(**changes: Any) -> Claim:
    return claim(variants=BUILT, higher="student", lower="teacher", **changes)


def asked(out: Path, *claims: Claim, task: str = "", method: str = "sft", **settings: Any) -> StudySettings:
    return StudySettings((Study(method, claims or (claim(),), task),), out, **{"seeds": 2, **settings})


def resolved(words: Sequence[str]) -> TrainConfig:
    """``run_of``, which takes its time, once for all words that differ in seed and folder alone."""
    rest, seed = taken(words, "seed")
    rest, out = taken(rest, "out")
    return replace(resolved_once(tuple(rest)), seed=int(seed or 0), out=Path(out or "run"))


@cache
def resolved_once(words: tuple[str, ...]) -> TrainConfig:
    return run_of([*words, "--out", "run"])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfteach.cli.study.run_of", resolved)


def plan_of(asked: StudySettings, rows: Path | None = None) -> Plan:
    return Plan(asked, resolved, Rows(rows or asked.out / "rows"))


def labels(works: Sequence[Work]) -> list[tuple[str, int]]:
    return [(work.side.words, work.seed) for work in works if work.side is not None]


# --- verdicts (of one claim, and how often they are false: test_verdicts.py)

SURE = ([0.90, 0.91, 0.89, 0.92], [0.10, 0.12, 0.11, 0.13])
UNSURE = ([0.5, 0.6, 0.4, 0.5], [0.45, 0.5, 0.55, 0.5])


def said(one: Answer, *others: Answer, unknown: int = 0) -> tuple[str, str]:
    found = decided([one, *others], unknown)[0]
    return found.verdict, found.why


def test_a_verdict_needs_a_difference_beyond_the_spread_over_seeds() -> None:
    assert said(Answer("m", claim(), *SURE)) == ("reproduced", "")
    assert said(Answer("m", claim(), *reversed(SURE))) == ("refuted", "")
    assert said(Answer("m", claim(), *UNSURE))[0] == "undecided"
    assert said(Answer("m", claim(), SURE[0][:3], SURE[1][:3])) == (
        "undecided",
        "a verdict needs 4 seeds at least",
    )
    assert said(Answer("m", claim(rule=Within(0.1)), SURE[0], [x + 0.01 * i for i, x in enumerate(SURE[0])]))[
        0
    ] == ("reproduced")


def test_the_differences_are_paired_by_seed() -> None:
    """Seeds differ by far more than the variants do; without pairing nothing would be seen."""
    one = Answer("m", claim(), [0.11, 0.52, 0.93, 0.33], [0.1, 0.5, 0.91, 0.32])
    assert said(Answer("m", claim(), [x + 0.02 for x in one.higher], one.lower))[0] == "reproduced"


def test_the_more_claims_a_table_has_the_more_each_must_show() -> None:
    one = Answer("m", claim(), [0.2, 0.3, 0.25, 0.28], [0.1, 0.1, 0.1, 0.1])
    assert 0.01 < one.evidence.p < 0.05
    assert said(one)[0] == "reproduced"
    assert said(one, unknown=9)[0] == "undecided"


def test_undecided_names_the_seeds_that_would_decide() -> None:
    one = Answer("m", claim(), [0.6, 0.4, 0.62, 0.45], [0.5, 0.5, 0.5, 0.42])
    verdict, why = said(one)
    assert verdict == "undecided"
    assert (found := re.fullmatch(r".* about (\d+) seeds would decide it: --seeds (\d+)", why))
    assert found[1] == found[2]
    assert int(found[1]) in (64, 128, 256)
    none = Answer("m", claim(rule=Exceeds(margin=0)), [0.6, 0.4, 0.6, 0.4], [0.5] * 4)
    assert (
        said(none)[1]
        == "at the effect and the spread seen no number of seeds that can be run would decide it"
    )


def test_two_sides_that_measure_the_same_are_undecided_and_ask_for_no_more() -> None:
    one = Answer("m", claim(), [0.5, 0.6, 0.7, 0.8], [0.5, 0.6, 0.7, 0.8])
    assert said(one) == ("undecided", "both sides measure the same in every seed: nothing is compared")
    assert decided([one])[0].settled


def test_a_claim_of_equality_is_not_reproduced_by_sides_that_are_one() -> None:
    same = Answer("m", claim(rule=Within(0.1)), SURE[0], SURE[0])
    why = "both sides measure the same in every seed: nothing is compared"
    assert said(same) == ("undecided", why)
    assert same.evidence.p == 1.0, "nor does it lend a verdict to the table"
    assert decided([same])[0].settled


def test_an_answer_is_believed_no_closer_than_its_evaluation_can_tell(tmp_path: Path) -> None:
    for words, metric, expected in (
        ("", "eval/headline", 1 / 512),
        (" --eval-problems 8 --eval-samples 1", "mean eval/headline", 1 / 8),
        ("", "summary/steps", 1e-3 * 2.0),
    ):
        one = claim({**VARIANTS, "b": VARIANTS["b"] + words}, metric=metric, may_fail=("a", "b"))
        plan = plan_of(asked(tmp_path, one, seeds=4))
        setup = set_up(plan, *plan.claims[0])
        assert resolution_of(plan, setup, [1.0, -2.0]) == expected


def test_more_seeds_than_can_be_asked_for_are_not_named() -> None:
    one = Answer("m", claim(), [0.5, 0.52] * 256, [0.5] * 512)
    assert "512" not in said(replace(one, lower=[0.51] * 512))[1]
    small = Answer("m", claim(rule=Exceeds(margin=0)), [0.6, 0.4, 0.6, 0.402], [0.5] * 4)
    assert said(small)[1].endswith("no number of seeds that can be run would decide it")


def test_a_dead_or_withdrawn_claim_has_no_verdict_whatever_its_p() -> None:
    assert said(Answer("m", claim(), *SURE, dead="dead side b: …")) == ("no verdict", "dead side b: …")
    assert said(Answer("m", claim(withdrawn="b is dead"), *SURE)) == ("no verdict", "withdrawn: b is dead")


def test_no_run_is_made_for_a_withdrawn_claim_and_its_reason_is_told(tmp_path: Path) -> None:
    plan = plan_of(asked(tmp_path, claim(withdrawn="b is dead")))
    assert missing(plan) == {}
    (left,) = answered(plan)[1]
    assert (left.reason, left.waiting) == ("withdrawn: b is dead", False)
    assert missing(plan_of(asked(tmp_path, claim())))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_no_answer(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        Answer("m", claim(), [0.9, value], [0.1, 0.1])


def test_a_claims_own_rule_is_the_one_that_decides() -> None:
    class Never(Exceeds):
        def p_values(self, differences: Sequence[float]) -> Mapping[Leaning, float]:
            return {"reproduced": 1.0, "refuted": 0.0}

    assert said(Answer("m", claim(rule=Never()), *SURE))[0] == "refuted"


NEAR = [[0.5, 0.51, 0.49, 0.5], [0.5, 0.5, 0.5, 0.5]]


@pytest.mark.parametrize(
    ("metric", "rule", "verdict"),
    [
        ("eval/headline", Exceeds(), "equal"),
        ("auc eval/headline", Exceeds(), "equal"),
        ("eval/sums/accuracy", Exceeds(), "equal"),
        ("eval/pass@8", Exceeds(), "equal"),
        ("eval/length", Exceeds(), "undecided"),
        ("eval/headline", Exceeds(margin=0), "undecided"),
        ("entropy/student", Exceeds(margin=0.1), "equal"),
    ],
)
def test_sides_of_nearly_the_same_accuracy_are_equal_and_of_other_metrics_where_a_margin_is_said(
    metric: str, rule: Rule, verdict: str
) -> None:
    near = [(a + b) / 2 for a, b in zip(*NEAR, strict=True)]
    assert said(Answer("m", claim(metric=metric, rule=rule), near, NEAR[1]))[0] == verdict


def test_at_the_ceiling_equal_says_nothing() -> None:
    high = [[x + 0.48 for x in side] for side in NEAR]
    near = [(a + b) / 2 for a, b in zip(*high, strict=True)]
    found = decided([Answer("m", claim(), near, high[1])])[0]
    assert (found.verdict, found.settled) == ("undecided", True)
    assert "ceiling" in found.why
    ahead = Answer("m", claim(), [0.99, 0.991, 0.989, 0.99], [0.975, 0.976, 0.974, 0.975])
    assert said(ahead)[0] == "reproduced", "a difference that was shown is one there too"


def test_task_and_model_of_a_study_are_those_of_variants_that_name_none() -> None:
    own = claim({"a": "sft --steps 2", "b": "sft --steps 3 --task table --model arena:table"})
    study = Study("sft", (own,), task="tutor", model="arena:tutor-unsure")
    assert study.written(own, "a") == "sft --steps 2 --task tutor --model arena:tutor-unsure"
    assert study.written(own, "b") == own.variants["b"]


# --- what is no study


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"higher": "aa"}, "no variant is called 'aa'; did you mean a"),
        ({"lower": "c"}, "no variant is called 'c'"),
        ({"lower": "a"}, "the same words"),
        ({"variants": {"a": "sft --steps 2", "b": "sft  --steps 2"}}, "the same words"),
        (
            {"variants": {**VARIANTS, "a": "sft --from {variant c}/model"}},
            r"\{variant c\}, which does not exist",
        ),
        ({"variants": {**VARIANTS, "a": "sft --from {variant a}"}}, "built on itself: 'a' on 'a'"),
        (
            {"variants": {"a": "sft --from {variant b}", "b": "sft --from {variant a}"}},
            "built on itself: 'a' on 'b' on 'a'",
        ),
        ({"metric": "men loss"}, "no NAME, nor one after one of last, first, mean, max, auc"),
        ({"tuned_by": "best loss"}, "metric 'best loss' is no NAME"),
        ({"sweep": ("lr 1|2",)}, "claim '.*': a sweep's entry is a setting and its values"),
        ({"sweep": ("--lr 1e-3|",)}, "a sweep's entry is a setting and its values"),
        ({"may_fail": ("c",)}, "'c' is neither of its sides"),
        ({"works": {"c": Works()}}, "'c' is neither of its sides"),
        ({"metric": "mean max loss"}, "no NAME"),
    ],
)
def test_a_claim_that_no_runs_can_answer_is_refused_when_it_is_made(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        claim(**changes)


def test_a_study_without_a_claim_or_a_recipe_is_refused() -> None:
    with pytest.raises(UserError, match="makes no claim"):
        Study("sft", ())
    for words in ("--steps 2", "", "train sft"):
        with pytest.raises(UserError, match="must begin with a recipe"):
            Study("sft", (claim({**VARIANTS, "a": words}),))


@pytest.mark.parametrize("changes", [{"sweep": None}, {"sweep": ("--lr x1|x3",), "tuned_by": "eval/length"}])
def test_claims_that_tune_one_side_in_two_ways_are_refused(changes: dict[str, Any]) -> None:
    first = claim(sweep=("--lr x1|x3",))
    other = claim({"a": "sft  --steps 2", "c": "sft --steps 3"}, lower="c", **changes)
    with pytest.raises(UserError, match=r"'a' is tuned over --lr .* and the same words over --lr x1\|x3 by"):
        Study("sft", (first, other))
    Study("sft", (first, replace(other, sweep=first.sweep, tuned_by=first.tuned_by)))
    Study("sft", (claim(), claim(tuned_by="eval/length")))


def test_an_unknown_study_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean sdpo"):
        study_named("sdop")


def test_a_reference_to_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("STUDY = 3\n")
    with pytest.raises(UserError, match="no Study but int"):
        study_named(f"{tmp_path}/mine.py:STUDY")


# --- the methods' own studies


def test_every_study_has_its_recipes_name_and_stands_in_its_order() -> None:
    assert [name for name in METHODS if name in STUDIES] == list(STUDIES)
    assert all(study.method == name for name, study in STUDIES.items())


@pytest.mark.parametrize("name", STUDIES)
def test_a_studys_words_are_understood_and_its_sides_differ(name: str) -> None:
    study = STUDIES[name]
    for one in study.claims:
        settings, answers = {}, {}
        for label in one.variants:
            words = study.words(one, label)
            of_text = name not in NETWORK_RECIPES
            acting = issubclass(METHODS[name], EmbodiedRecipe)
            assert ("--task" if of_text else "--environment" if acting else "--data") in words, (
                "the task of a recipe may change; that of a study may not"
            )
            for other in built_on(words):
                words = words.replace(f"{{variant {other}}}", "elsewhere")
            run = run_of([*shlex.split(words), "--out", "x"])
            settings[label] = table_of(run)
            answers[label] = (
                run.recipe.optimization.prompts * run.recipe.rollouts.per_prompt if of_text else 0
            )
        assert settings[one.higher] != settings[one.lower], one.says
        assert answers[one.higher] == answers[one.lower], f"{one.says}: not as many answers a step"


@pytest.mark.parametrize(("name", "number"), [("pu-rl", 1), ("many-faces", 3), ("unisd", 0), ("rltf", 4)])
def test_a_claim_that_the_arena_cannot_answer_says_why_and_where_others_are_listed(
    name: str, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    why = STUDIES[name].claims[number].withdrawn
    assert why
    assert main(["study", name, "--list"]) == 0
    assert f"no verdict, withdrawn: {why}" in capsys.readouterr().out


def test_a_side_of_which_the_claim_says_that_it_fails_may_fail() -> None:
    rule, answer, *_ = STUDIES["many-faces"].claims
    assert (rule.job("answer"), answer.job("solution")) == (None, None)
    assert rule.job("rule") == answer.job("rule") == Works()


def test_confidences_are_not_tuned_by_accuracy_and_must_get_better() -> None:
    for one in STUDIES["caopd"].claims:
        assert one.grid == ()
        job = one.job("caopd")
        assert job is not None
        assert (job.metric, job.above) == ("first eval/brier", "eval/brier")


def test_a_runs_folder_is_a_fingerprint_of_its_words() -> None:
    """Finished runs are found by it."""
    assert label_of("pw-opsd --task chain --steps 80") == "pw-opsd-12076ef6"


# --- plans


def test_a_variant_that_builds_on_another_waits_for_it_and_gets_its_folder(tmp_path: Path) -> None:
    plan = plan_of(asked(tmp_path / "with space", built(), seeds=1))
    making = Making(plan, False, lambda: True)
    (teacher,) = making.round()
    assert labels([teacher]) == [("opsd", 0)]
    begun(teacher)
    making.keep_row(teacher)
    (student,) = making.round()
    assert f"{teacher.folder}/model" in student.words
    assert student.side is not None
    assert student.side.words == "exopd --teacher {opsd}/model"
    assert teacher.folder.exists(), "the student needs it"


def test_a_variants_own_evaluation_settings_stand(tmp_path: Path) -> None:
    one = claim({**VARIANTS, "a": "sft --eval-problems=8 --samples-every 3"})
    plan = plan_of(asked(tmp_path, one))
    run = plan.work(side_of(plan.asked.studies[0], one, "a", {}), 0)
    assert "256" not in run.words
    assert run.words.count("--samples-every") == 1
    assert "--eval-samples" in run.words


def test_the_studys_task_is_that_of_variants_that_name_none(tmp_path: Path) -> None:
    one = claim({"a": "sft", "b": "sft --task chain"})
    study = Study("sft", (one,), task="facts")
    assert study.words(one, "a") == "sft --task facts"
    assert study.words(one, "b") == "sft --task chain"
    plan = plan_of(StudySettings((study,), tmp_path))
    run = plan.work(side_of(study, one, "a", {}), 0)
    assert run.folder.name == f"{label_of('sft --task facts')}-0"


def test_equal_sides_are_one_run_across_claims_and_studies(tmp_path: Path) -> None:
    """Also where one study says its task in its words, and the other beside them."""
    first = Study("one", (claim(), claim({**VARIANTS, "b": "sft --steps 3"})), "table")
    other = Study("two", (claim({"a": "sft --steps 2 --task table", "b": "sft --steps 2 --task chain"}),))
    plan = plan_of(StudySettings((first, other), tmp_path, seeds=2))
    assert len(missing(plan)[2]) == 2 * 4


def test_equal_words_of_two_tasks_are_two_runs(tmp_path: Path) -> None:
    studies = tuple(Study("sft", (claim(),), task) for task in ("table", "chain"))
    plan = plan_of(StudySettings(studies, tmp_path, seeds=1))
    assert len({work.folder for work in missing(plan)[1]}) == 4


def test_words_that_are_none_are_refused_before_any_run(tmp_path: Path) -> None:
    study = asked(tmp_path, claim({**VARIANTS, "b": "sft --stpes 1"}), method="mine")
    with pytest.raises(UserError, match=r"study of mine, variant 'b':.*--steps"):
        plan_of(study)
    many = asked(tmp_path, claim(sweep=("--schedule x3",)), method="mine")
    with pytest.raises(
        UserError, match=r"study of mine, variant 'a': sweep --schedule x3: x3 of '\w+' is no number"
    ):
        plan_of(many)
    assert not any(tmp_path.iterdir())


def test_the_common_task_has_the_baselines_and_a_budget_for_those_that_sample(tmp_path: Path) -> None:
    study = asked(tmp_path, claim(VARIANTS), method="sdpo", common_task="tutor", tokens=500)
    common = plan_of(study).common
    assert list(common) == ["opsd", "grpo", "sft", "sdpo"]
    assert ["--token-budget" in common[name][0].words for name in common] == [True, True, False, True]
    assert {work.seed for work in common["sdpo"]} == {0, 1}
    assert plan_of(asked(tmp_path)).common == {}


def test_another_student_on_the_common_task_and_a_small_budget_are_looked_at_often_enough(
    tmp_path: Path,
) -> None:
    study = asked(
        tmp_path,
        claim(VARIANTS),
        method="sdpo",
        common_task="tutor",
        tokens=30_000,
        common_model="arena:tutor-unsure",
    )
    for work in plan_of(study).common["opsd"]:
        assert work.side is not None
        words = work.side.words.split()
        assert words[words.index("--model") + 1] == "arena:tutor-unsure"
        assert (
            words[words.index("--eval-every") + 1] == "1"
        )  # 64 answers of at most 64 tokens are 4,096 a step


def test_a_method_that_writes_nothing_takes_no_more_steps_on_the_common_task_than_the_others(
    tmp_path: Path,
) -> None:
    """distillm, whose share of own answers may stay 0, trained on for ten times its steps."""
    study = asked(tmp_path, claim(VARIANTS), method="distillm", common_task="tutor", tokens=20_000)
    steps = {
        name: int(runs[0].words[runs[0].words.index("--steps") + 1])
        for name, runs in plan_of(study).common.items()
    }
    assert steps["distillm"] == steps["sft"] == steps["opsd"] == 20  # 4 × 20,000 tokens / (64 answers × 64)


# --- what a side is tuned by

TUNED = {"a": "sft --lr 1e-3", "b": "sft --lr 1e-4 --steps 2"}


def learned(of: Callable[[str, int], float]) -> Callable[[Work], Row]:
    """Rows whose last headline is a function of words and seed, above a first one of 0.1."""

    def row(work: Work) -> Row:
        assert work.side is not None
        last = of(work.side.words, work.seed)
        return written_row(work.side.words, work.seed, last)

    return row


def written_row(words: str, seed: int, last: float, first: float = 0.1, **more: Any) -> Row:
    values = {"last": last, "first": first, "mean": last, "max": last, "auc": last}
    return Row(words, seed, "made", {"eval/headline": values}, **more)


def answer_all(plan: Plan, of: Callable[[Work], Row]) -> list[list[tuple[str, int]]]:
    """Every run that is asked for, round by round, answered at once."""
    rounds = []
    making = Making(plan, False, lambda: True)
    while works := making.round():
        assert len(rounds) < 20
        rounds.append(labels(works))
        for work in works:
            assert work.side is not None
            plan.rows.add(replace(of(work), fingerprint=plan.fingerprint(work.side)))
            if work.folder in making.held:
                work.folder.mkdir()
                (work.folder / "summary.json").write_text("{}")
    return rounds


def test_both_sides_get_the_same_multiples_of_their_own_rate_on_seeds_that_are_not_reported(
    tmp_path: Path,
) -> None:
    plan = plan_of(asked(tmp_path, claim(TUNED, sweep=None), seeds=4))
    best = {"sft --lr 1e-3 --lr 0.003", "sft --lr 1e-4 --steps 2"}
    rounds = answer_all(plan, learned(lambda words, seed: 0.5 + 0.05 * (words in best) + seed % 7 / 1000))
    tried = {"sft --lr 1e-3": ["0.0003", "0.003"], "sft --lr 1e-4 --steps 2": ["3e-05", "0.0003"]}
    wanted = {
        (words, seed)
        for own, values in tried.items()
        for seed in (1000, 1001)
        for words in [own, *[f"{own} --lr {v}" for v in values]]
    }
    assert {*rounds[0], *rounds[1]} == wanted
    assert set(rounds[2]) == {(words, seed) for words in best for seed in range(4)}
    setup = set_up(plan, *plan.claims[0])
    assert by_label(setup) == {"a": "--lr 0.003", "b": ""}
    assert setup.tried["a"][""] == pytest.approx(0.5 + (1000 % 7 + 1001 % 7) / 2000)


def test_a_setting_far_behind_the_best_on_the_first_tuning_seed_is_not_tried_on_the_second(
    tmp_path: Path,
) -> None:
    plan = plan_of(asked(tmp_path, claim(TUNED, sweep=None), seeds=4))
    scores = {"0.0003": 0.24, "0.003": 0.45, "3e-05": 0.5}
    rounds = answer_all(
        plan, learned(lambda words, seed: scores.get(words.split()[-1], 0.5) + 0.2 * (seed == 1001))
    )
    first, second = ({one for one in works if "1e-3" in one[0]} for works in rounds[:2])
    assert first == {
        ("sft --lr 1e-3", 1000), ("sft --lr 1e-3 --lr 0.0003", 1000), ("sft --lr 1e-3 --lr 0.003", 1000)
    }  # fmt: skip
    assert second == {("sft --lr 1e-3", 1001), ("sft --lr 1e-3 --lr 0.003", 1001)}
    setup = set_up(plan, *plan.claims[0])
    assert setup.tried["a"] == pytest.approx({"": 0.6, "--lr 0.0003": 0.24, "--lr 0.003": 0.55})
    assert by_label(setup)["a"] == ""


def test_by_another_metric_than_accuracy_every_setting_is_tried_on_both_seeds(tmp_path: Path) -> None:
    plan = plan_of(asked(tmp_path, claim(TUNED, sweep=None, tuned_by="loss"), seeds=4))

    def row(work: Work) -> Row:
        assert work.side is not None
        values = dict.fromkeys(("last", "first", "mean", "max", "auc"), 0.5 + (work.seed == 1000))
        worse = {key: value - ("3" in work.side.words) for key, value in values.items()}
        return replace(
            written_row(work.side.words, work.seed, 0.5), metrics={"eval/headline": values, "loss": worse}
        )

    rounds = answer_all(plan, row)
    assert sum(seed == 1000 for _, seed in rounds[0]) == sum(
        seed == 1001 for works in rounds[:2] for _, seed in works
    )


def test_a_setting_at_which_a_run_stops_by_itself_is_not_chosen(tmp_path: Path) -> None:
    plan = plan_of(asked(tmp_path, claim(TUNED, sweep=("--lr 1e-2|x1",)), seeds=4))
    rounds = answer_all(
        plan,
        lambda work: (
            written_row(work.side.words, work.seed, 0.9, stopped="loss is nan")
            if work.side and "1e-2" in work.side.words
            else learned(lambda words, seed: 0.3)(work)
        ),
    )
    assert {words for words, _ in rounds[1]} == set(TUNED.values())


def test_where_every_setting_is_as_good_the_one_as_written_is_chosen(tmp_path: Path) -> None:
    plan = plan_of(asked(tmp_path, claim(TUNED, sweep=None), seeds=4))
    rounds = answer_all(plan, learned(lambda words, seed: 0.5))
    assert {words for words, _ in rounds[2]} == set(TUNED.values())


def test_of_several_settings_every_combination_is_tried(tmp_path: Path) -> None:
    one = claim(sweep=("--lr x1|x3", "--prompts 4|8"))
    plan = plan_of(asked(tmp_path, one))
    side = side_of(plan.asked.studies[0], one, "a", {})
    rate = plan.config(side).recipe.optimization.lr
    grid = plan.grid(one, side)
    assert [side.words_of_settings for side in grid] == [
        "--prompts 4", "--prompts 8", f"--lr {3 * rate:.4g} --prompts 4", f"--lr {3 * rate:.4g} --prompts 8",
    ]  # fmt: skip
    assert [plan.config(side).recipe.optimization.lr for side in grid] == pytest.approx(
        [rate, rate, 3 * rate, 3 * rate]
    )
    assert plan.config(grid[0]).recipe.optimization.prompts == 4


def test_a_setting_that_is_no_knob_of_the_recipe_is_understood_too(tmp_path: Path) -> None:
    one = claim(sweep=("--eval-temperature 0.5",))
    plan = plan_of(asked(tmp_path, one))
    (side,) = plan.grid(one, side_of(plan.asked.studies[0], one, "a", {}))
    assert plan.config(side).evaluation.eval_temperature == 0.5


def test_a_side_built_on_another_side_is_built_on_it_as_tuned(tmp_path: Path) -> None:
    plan = plan_of(asked(tmp_path, built(sweep=("--lr x1|x3",)), seeds=4))
    rate = plan.config(Side("opsd", "opsd")).recipe.optimization.lr
    best = f"opsd --lr {3 * rate:.4g}"
    rounds = answer_all(plan, learned(lambda words, seed: 0.5 + 0.1 * (words == best)))
    asked_for = [words for works in rounds for words, _ in works if words.startswith("exopd")]
    assert (
        set(map(lambda words: words.partition("}")[0], asked_for)) <= {f"exopd --teacher {{{best}"}
        or not asked_for
    )
    assert by_label(set_up(plan, *plan.claims[0])).get("teacher") == f"--lr {3 * rate:.4g}"


def test_the_default_grid_is_a_third_one_and_three_times_the_rate() -> None:
    assert claim(sweep=None).grid == ("--lr x0.3|x1|x3",)
    assert claim(sweep=()).grid == ()
    assert claim(sweep=None, metric="first eval/headline").grid == ()


# --- seeds in blocks


def test_every_claim_is_looked_at_before_any_is_a_second_time_and_those_decided_ask_for_no_more(
    tmp_path: Path,
) -> None:
    sure, open_ = claim(), claim({"a": "sft --steps 3", "b": "sft --steps 4"})
    plan = plan_of(asked(tmp_path, open_, sure, seeds=16))

    def headline(words: str, seed: int) -> float:
        noise = (seed * 7919 % 13) / 100
        return (
            0.9 + noise / 100
            if words == "sft --steps 2"
            else 0.4 + (noise if "4" in words else -noise) * (-1) ** seed
        )

    rounds = answer_all(plan, learned(headline))
    every = ["sft --steps 3", "sft --steps 4", "sft --steps 2", "sft --steps 1"]
    assert sorted(rounds[0]) == sorted((words, seed) for words in every for seed in range(4))
    assert sorted(rounds[1]) == sorted((words, seed) for words in every[:2] for seed in range(4, 8))
    assert sorted(rounds[2]) == sorted((words, seed) for words in every[:2] for seed in range(8, 16))
    assert len(rounds) == 3
    answers, left = answered(plan)
    assert [one.verdict for one in decided(answers, len(left))] == ["undecided", "reproduced"]
    assert [len(one.differences) for one in answers] == [16, 4]


def test_the_cap_ends_it_and_fewer_seeds_than_a_look_only_try_runs_out(tmp_path: Path) -> None:
    few = plan_of(asked(tmp_path, claim(sweep=None), seeds=2))
    assert len(answer_all(few, learned(lambda words, seed: 0.5))) == 1
    assert decided(answered(few)[0])[0].why == "a verdict needs 4 seeds at least"


def test_a_dead_side_is_no_verdict_and_asks_for_no_more(tmp_path: Path) -> None:
    plan = plan_of(asked(tmp_path, claim(), seeds=16))
    rounds = answer_all(
        plan, learned(lambda words, seed: 0.9 + seed / 1000 if words == VARIANTS["a"] else 0.0)
    )
    assert len(rounds) == 1
    (found,) = decided(answered(plan)[0])
    assert found.verdict == "no verdict"
    assert found.why.startswith("dead side b: eval/headline ends at 0, untrained it is 0.1")


@pytest.mark.parametrize(
    ("more", "verdict"),
    [
        ({}, "no verdict"),
        ({"may_fail": ("b",)}, "reproduced"),
        ({"may_fail": ("b",), "works": {"b": Works("max eval/headline", 0.5)}}, "no verdict"),
        ({"works": {"b": Works("eval/headline", 0.05, by=0)}}, "reproduced"),
        ({"works": {"a": Works("eval/headline", 0.95)}, "may_fail": ("b",)}, "no verdict"),
        ({"metric": "mean eval/headline", "may_fail": ("a",)}, "no verdict"),
    ],
)
def test_a_sides_job_is_what_its_claim_says(more: dict[str, Any], verdict: str, tmp_path: Path) -> None:
    plan = plan_of(asked(tmp_path, claim(**more), seeds=4))
    answer_all(plan, learned(lambda words, seed: (0.9 if words == VARIANTS["a"] else 0.1) + seed / 1000))
    assert decided(answered(plan)[0])[0].verdict == verdict


def test_of_other_metrics_nothing_is_asked_unless_the_claim_does() -> None:
    assert claim(metric="reward/mean").job("a") is None
    assert claim(metric="first eval/headline").job("a") is None
    assert claim(metric="auc eval/headline").job("a") == Works()


# --- rows


def test_a_run_with_a_valid_row_is_not_made_again(tmp_path: Path) -> None:
    study = asked(tmp_path, seeds=2)
    plan = plan_of(study)
    answer_all(plan, learned(lambda words, seed: 0.5))
    assert missing(plan_of(study)) == {}
    assert missing(plan_of(asked(tmp_path, claim(metric="eval/length"), seeds=2)))[2], (
        "it holds no such metric"
    )
    assert len(missing(plan_of(asked(tmp_path, claim({**VARIANTS, "b": "sft --steps 9"}))))[2]) == 2


def test_rows_are_small_sorted_and_read_back(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    for seed in (3, 1):
        rows.add(written_row("sft --task table", seed, 1 / 3, math.nan, versions={"torch": "2"}))
    rows.add(written_row("mine.py:Own --steps 1", 0, 0.5))
    lines = (tmp_path / "sft.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [1, 3]
    assert max(map(len, lines)) < 400
    again = Rows(tmp_path).find("sft --task table", 3, "made", ["eval/headline"])
    assert again is not None
    assert again.value("eval/headline") == 0.333333
    assert math.isnan(again.value("first eval/headline"))
    assert (tmp_path / "mine-py-Own.jsonl").exists()


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "7", '{"words": "sft"}',
     '{"words": "sft", "seed": 0, "fingerprint": "x", "metrics": {"a": {"last": 1}}}',
     '{"words": "sft", "seed": 0, "fingerprint": "x", "mine": 1}', '{"words": "sft", "seed": "a", "fingerprint": "x"}'],
)  # fmt: skip
def test_a_line_that_is_no_row_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "sft.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=r"sft.jsonl, line 1: not a row of a study; remove that line"):
        Rows(tmp_path)


def fingerprint_of(words: str) -> str:
    return fingerprints.fingerprint(resolved(shlex.split(words)))


def test_a_row_depends_on_what_the_run_does_and_on_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    same = fingerprint_of("opsd --task table")
    assert fingerprint_of("opsd --task table --keep 7 --seed 3 --micro-batch 2") == same
    for other in ("opsd --task table --lr 1e-5", "opsd --task chain", "opsd --task table --eval-samples 3"):
        assert fingerprint_of(other) != same
    assert fingerprint_of("sft --task table") != same
    monkeypatch.setattr(fingerprints, "EPOCH", 99)
    assert fingerprint_of("opsd --task table") != same


DEFAULTS = Path(__file__).parent / "data" / "study_defaults.json"


def defaults() -> dict[str, Any]:
    """The defaults that no fingerprint sees, as JSON holds them."""
    kinds = (
        *(Loading, Evaluation, Bookkeeping, TaskOptions, Rollouts, Optimization, Adapter),
        *(GRPOSettings, Critic, PerRecord, ReferenceProbe),
    )
    found = {
        f"{kind.__name__}.{one.name}": one.default
        for kind in kinds
        for one in fields(kind)
        if one.default is not MISSING
    }
    return json.loads(json.dumps({name: value for name, value in found.items()}, default=str))


def test_a_default_that_all_methods_share_is_not_changed_without_a_new_epoch() -> None:
    """A new setting is none of its business. To mend it: raise EPOCH and write the table anew,
    {"epoch": EPOCH, "defaults": defaults()}."""
    known = json.loads(DEFAULTS.read_text())
    assert known["epoch"] == fingerprints.EPOCH
    changed = {
        name: value for name, value in defaults().items() if known["defaults"].get(name, value) != value
    }
    assert changed == {}


def files_of(words: str) -> set[str]:
    config = resolved(shlex.split(words))
    root = Path(fingerprints.__file__).parents[1]
    return {str(file.relative_to(root)) for file in code_files(config.recipe, (config.task_name,))}


@pytest.mark.parametrize(
    ("words", "those", "not_those"),
    [
        ("rltf --task tutor", ["recipes/critic.py", "task/arena/table.py", "task/arena/taught.py"],
         ["task/arena/rule.py"]),
        ("unisd --task tutor", ["recipes/demonstrations.py", "objective/agreement.py"], ["recipes/critic.py"]),
        ("many-faces --task rule",
         ["recipes/informed.py", "objective/forms.py", "roles/privilege.py", "roles/private.py", "task/arena/rule.py"],
         ["task/arena/secrets.py"]),
        ("selfci --task secrets", ["recipes/once.py", "task/arena/secrets.py"], ["task/arena/ambiguous.py"]),
        ("caopd --task ambiguous", ["objective/calibration.py", "task/arena/ambiguous.py"],
         ["recipes/r12_pi_distill.py"]),
        ("dp-opd --task tutor", ["recipes/r62_dp_opd.py", "recipes/gkd.py", "control/accountant.py"],
         ["recipes/grpo.py"]),
        ("pu-rl --task tutor", ["recipes/r27_pu_rl.py", "recipes/sft.py"], ["recipes/base.py", "recipes/kit.py"]),
    ],
)  # fmt: skip
def test_a_row_depends_on_the_code_that_its_method_and_world_use(
    words: str, those: list[str], not_those: list[str]
) -> None:
    found = files_of(words)
    assert set(those) <= found
    assert not found & set(not_those)


def test_another_helper_of_a_method_is_another_row(monkeypatch: pytest.MonkeyPatch) -> None:
    before, other = fingerprint_of("rltf --task tutor"), fingerprint_of("sft --task tutor")
    code_of = fingerprints.code_of
    monkeypatch.setattr(
        fingerprints, "code_of", lambda file: code_of(file) + ("x = 1" if file.name == "critic.py" else "")
    )
    assert fingerprint_of("rltf --task tutor") != before
    assert fingerprint_of("sft --task tutor") == other


def test_what_all_methods_share_is_there() -> None:
    assert [name for name in SHARED if file_of(name) is None] == []


def test_comments_and_docstrings_are_no_part_of_a_recipes_code(tmp_path: Path) -> None:
    texts = [
        "class A:\n    x = 1\n",
        '"""Says."""\n\nclass A:\n    """Too."""\n    # and why\n    x = 1\n',
        "class A:\n    x = 2\n",
    ]
    codes = []
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.py").write_text(text)
        codes.append(fingerprints.code_of(tmp_path / f"{i}.py"))
    assert codes[0] == codes[1] != codes[2]


def test_code_is_kept_as_it_is_written_whatever_python_would_write(tmp_path: Path) -> None:
    """What ``ast.unparse`` gives is another text in Python 3.12 than in 3.11: rows would be void in the other."""
    written = """x = f'{a!r:>{n}} "b" # no comment'  # ü
def g():
    'says; "ü"'; y = "#"; \"\"\"and
    more\"\"\"; z = (1,
       2)"""
    (tmp_path / "one.py").write_text(written, encoding="utf-8")
    left = [
        """x = f'{a!r:>{n}} "b" # no comment'""",
        "def g():",
        """    ; y = "#"; ; z = (1,""",
        "       2)",
    ]
    assert fingerprints.code_of(tmp_path / "one.py").splitlines() == left


@pytest.mark.parametrize("other", ["a\\nb", "a\\n\\nb ", "a \\n\\nb"])
def test_what_stands_within_a_string_is_code_blank_lines_too(other: str, tmp_path: Path) -> None:
    found = []
    for i, text in enumerate(["a\n\nb", other.encode().decode("unicode_escape")]):
        for j, start in enumerate(["", "f"]):
            (tmp_path / f"{i}{j}.py").write_text(f'PROMPT = {start}"""{text}\n"""\n')
            found.append(fingerprints.code_of(tmp_path / f"{i}{j}.py"))
    assert len(set(found)) == 4


@pytest.mark.parametrize("code", ["# -*- coding: latin-1 -*-\n# é\nx = 1\n", "\ufeffx = 1\n"])
def test_code_is_read_in_the_encoding_that_it_names(code: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(code.encode("latin-1" if "latin" in code else "utf-8"))
    assert fingerprints.code_of(tmp_path / "a.py") == "x = 1"


def test_a_run_depends_on_the_worlds_that_are_measured_beside_its_own() -> None:
    one, two = (fingerprint_of(f"mixsd --task facts --eval-also {world}") for world in ("sums", "table"))
    assert one != two
    config = resolved(["mixsd", "--task", "facts", "--eval-also", "sums"])
    both = {file.name for file in code_files(config.recipe, ("facts", *config.evaluation.eval_also))}
    assert both - {file.name for file in code_files(config.recipe, ("facts",))}


def test_a_side_depends_on_what_it_is_built_on(tmp_path: Path) -> None:
    plans_ = [
        plan_of(asked(tmp_path, claim({**BUILT, "teacher": teacher}, "student", "teacher")))
        for teacher in ("opsd", "opsd --lr 1e-5")
    ]
    found = {p.fingerprint(side_of(p.asked.studies[0], p.claims[0][1], "student", {})) for p in plans_}
    assert len(found) == 2


# --- runs of before


def begun(run: Planned, plan: Plan | None = None) -> None:
    """A finished run's folder, as it would be by now; with ``plan``, one that was not made in a round of it."""
    if plan is not None:
        assert isinstance(run, Work)
        mark(run, plan)
    with RunFolder.create(run.folder) as folder:
        folder.write_config(table_of(resolved(run.words[1:])))
        folder.metrics({"step": 1, "eval/headline": 0.5, "spent/tokens": 3})
        folder.summary({"steps": 1, "spent": 3, "unit": "tokens", "training_seconds": 1.0})


def test_a_begun_run_whose_settings_have_changed_is_made_anew(tmp_path: Path) -> None:
    plan = plan_of(asked(tmp_path, claim()))
    works = missing(plan)[2]
    for run in works:
        begun(run, plan)
    text = (works[1].folder / "config.toml").read_text()
    (works[1].folder / "config.toml").write_text(text.replace("steps = 2", "steps = 3"))
    stale = outdated(works, plan)
    assert list(stale) == [works[1].folder]
    assert "steps: 3 → 2" in stale[works[1].folder]
    forget(stale)
    assert [run.folder.exists() for run in works[:2]] == [True, False]


@pytest.mark.parametrize("code", ["other", "unknown", "same"])
def test_a_run_that_was_begun_with_other_code_gets_no_row_of_todays(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished one, and one that is to go on: its settings are the same."""
    works = missing(plan_of(asked(tmp_path)))[2]
    for run in works[:2]:
        begun(run, plan_of(asked(tmp_path)))
    (works[1].folder / "summary.json").unlink()
    if code == "other":
        monkeypatch.setattr(fingerprints, "EPOCH", 99)
    if code == "unknown":
        for run in works[:2]:
            (run.folder / "fingerprint.txt").unlink()
    stale = outdated(works, plan_of(asked(tmp_path)))
    assert list(stale) == ([] if code == "same" else [works[0].folder, works[1].folder])
    assert all("begun with other code than there is now" in why for why in stale.values())


def test_a_finished_run_without_a_row_gets_it_and_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ended between the run's end and its row."""
    trained = finished_at_once(monkeypatch, 0.5)
    study = asked(tmp_path / "runs", seeds=2)
    plan = plan_of(study, tmp_path / "results" / "studies")
    first = missing(plan)[2][0]
    begun(first, plan)
    run_studies(study, resolved, jobs=1, command="", results=tmp_path / "results")
    assert first.folder.name not in trained
    assert len(trained) == 3
    assert missing(plan_of(study, tmp_path / "results" / "studies")) == {}


def test_a_run_whose_teacher_is_to_be_made_anew_is_so_too(tmp_path: Path) -> None:
    plan = plan_of(asked(tmp_path, built(), seeds=3))
    works = missing(plan)[3]
    students = [work for work in works if work.needs]
    teachers = [work.needs[0] for work in students]
    for run in (*teachers[:2], *students):
        begun(run, plan)
    text = (teachers[1].folder / "config.toml").read_text()
    (teachers[1].folder / "config.toml").write_text(text.replace("seed = 1", "seed = 7"))
    assert set(outdated(works, plan)) == {teachers[1].folder, students[1].folder, students[2].folder}


def test_a_chain_of_variants_keeps_what_the_later_ones_are_built_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of three is no need of the last, but of what that needs: deleted too soon it was made for ever."""
    trained = finished_at_once(monkeypatch, 0.5)
    chain = {
        "a": "opsd",
        "b": "exopd --teacher {variant a}/model",
        "c": "exopd --steps 7 --teacher {variant b}/model",
        "d": "opsd --steps 9",
    }
    study = asked(
        tmp_path / "runs", claim(variants=chain, higher="c", lower="d", may_fail=("c", "d")), seeds=1
    )
    run_studies(study, resolved, jobs=1, command="", results=tmp_path / "results")
    assert len(trained) == len(set(trained)) == 4
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()] == []


def test_what_was_built_on_old_code_is_made_anew_after_what_it_is_built_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished teacher of old code is deleted; its student, not begun, has to wait for the new one."""
    trained = finished_at_once(monkeypatch, 0.5)
    study = asked(tmp_path / "runs", built(), seeds=1)
    plan = plan_of(study, tmp_path / "results" / "studies")
    (student,) = [work for work in missing(plan)[1] if work.needs]
    teacher = student.needs[0]
    begun(teacher, plan)
    (teacher.folder / "fingerprint.txt").write_text("of old\n")
    plan.rows.add(row_of(teacher, teacher.side.words, plan.fingerprint(teacher.side), {"eval/headline"}))
    run_studies(study, resolved, jobs=1, command="", results=tmp_path / "results")
    assert trained == [teacher.folder.name, student.folder.name]


def test_the_commands_that_would_run_leave_out_what_has_a_row(tmp_path: Path) -> None:
    study = asked(tmp_path, built(), seeds=1)
    (both,) = commands(study, resolved, tmp_path)
    assert both[0].startswith("selfteach train opsd --seed 0")
    assert f"--teacher {tmp_path}/{label_of('opsd')}-0/model" in both[1]
    plan = Plan(study, resolved, Rows(tmp_path / "studies"))
    making = Making(plan, True, lambda: True)
    (teacher,) = making.round()
    begun(teacher)
    making.keep_row(teacher)
    assert commands(study, resolved, tmp_path) == [both[1:]]


# --- what runs say


@pytest.fixture
def run(tmp_path: Path) -> Planned:
    rows = [
        {"step": 0, "eval/headline": 0.2},
        {"step": 1, "loss": 3.0, "holes": 1.0, "alarms": ["loud"]},
        {"step": 2, "loss": 1.0, "holes": "NaN"},
        {"step": 2, "eval/headline": 0.6},
        {"step": 8, "eval/headline": 0.4},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "summary.json").write_text('{"spent": 7, "unit": "tokens", "best": null}')
    return Planned("a", 0, tmp_path)


def measured(metric: str, run: Planned) -> float:
    return row_of(run, "words", "", [column_of(metric)]).value(metric)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("eval/headline", 0.4),
        ("last loss", 1.0),
        ("first eval/headline", 0.2),
        ("mean loss", 2.0),
        ("max loss", 3.0),
        ("first holes", 1.0),
        ("summary/spent", 7.0),
        ("auc eval/headline", (2 * 0.4 + 6 * 0.5) / 8),
    ],
)
def test_a_metric_is_read_from_the_rows_that_have_it(run: Planned, metric: str, value: float) -> None:
    assert measured(metric, run) == pytest.approx(value)


def test_the_area_of_a_straight_line_is_its_middle_and_of_one_point_its_height() -> None:
    assert height([0, 5, 20], [0.0, 0.25, 1.0]) == pytest.approx(0.5)
    assert height([3], [0.7]) == 0.7
    assert height([0, 4, 4], [0.2, 0.2, 0.9]) == pytest.approx(0.2)


@pytest.mark.parametrize("how", ["last", "mean", "max", "auc"])
def test_a_nan_is_not_hidden_by_the_numbers_beside_it(run: Planned, how: str) -> None:
    assert math.isnan(measured(f"{how} holes", run))


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("eval/headlin", "no 'eval/headlin'; did you mean eval/headline?"),
        ("summary/spend", "no 'summary/spend'; did you mean summary/spent"),
        ("summary/unit", "is no number"),
        ("summary/best", "is no number"),
        ("alarms", "is no number"),
    ],
)
def test_a_metric_that_is_none_is_refused_by_name(run: Planned, metric: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        measured(metric, run)
    assert said in str(refused.value)
    assert isinstance(numbers(run, column_of(metric)), str)


def said_by(tmp_path: Path, one: Claim, **values: Sequence[float]) -> Answer | Open:
    """The answer to ``one`` where the variants' runs end with these headlines."""
    plan = plan_of(asked(tmp_path, one, seeds=len(next(iter(values.values())))))
    by_words = {one.variants[label]: ends for label, ends in values.items()}
    answer_all(plan, learned(lambda words, seed: by_words[words][seed]))
    answers, left = answered(plan)
    return [*answers, *left][0]


def test_finished_runs_answer_a_claim(tmp_path: Path) -> None:
    found = said_by(tmp_path, claim(), a=SURE[0], b=SURE[1])
    assert isinstance(found, Answer)
    assert (found.higher, found.lower) == SURE


def test_a_nan_becomes_no_verdict_but_is_told_with_its_variant_and_seed(tmp_path: Path) -> None:
    found = said_by(tmp_path, claim(may_fail=("a", "b")), a=[0.9, math.nan], b=[0.1, 0.1])
    assert isinstance(found, Open)
    assert found.reason == "eval/headline of a is nan at seed 1"
    assert not found.defect
    assert not found.waiting


def test_a_run_that_stopped_by_itself_is_told_with_its_reason(tmp_path: Path) -> None:
    plan = plan_of(asked(tmp_path, claim(), seeds=16))
    answer_all(
        plan,
        lambda work: written_row(
            work.side.words if work.side else "", work.seed, 0.5, stopped="after step 5: nan"
        ),
    )
    (found,) = answered(plan)[1]
    assert found.reason == "a stopped at seed 0: after step 5: nan"
    assert not found.waiting


def test_one_seed_prints_its_number_alone() -> None:
    one_run = {
        "points": [{"headline": 0.25}, {"headline": 0.5}],
        "summary": {"steps": 1, "spent": 2, "training_seconds": 3.0},
    }
    assert mean_and_error([0.5]) == "0.5"
    assert mean_and_error([0.5, 0.7]) == "0.6 ± 0.1"
    assert cells("sft", condensed([one_run]))[2] == "0.500"
    assert cells("sft", condensed([one_run, one_run]))[2] == "0.500 ± 0.000"


# --- from words to results

SHORT = "--task table --prompts 2 --max-tokens 16 --eval-problems 4"
MINE = f"""
from selfteach.studies import Claim, Study

STUDY = Study(
    method="sft",
    task="table",
    claims=(
        Claim(
            says="longer is better",
            variants={{"long": "sft {SHORT} --steps 2", "short": "sft {SHORT} --steps 1"}},
            higher="long",
            lower="short",
        ),
    ),
)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A study of one's own, by reference, in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    return "mine.py:STUDY"


def test_a_common_model_without_a_common_task_is_refused(
    mine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", mine, "--common-model", "arena:tutor-unsure", "--dry-run"]) == 2
    assert "give --common-task too" in capsys.readouterr().err


def test_the_list_shows_claims_and_variants(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", mine, "pw-opsd", "--list"]) == 0
    shown = capsys.readouterr().out
    assert "longer is better" in shown
    assert "weighted: selfteach train pw-opsd --task tutor --steps 24 " in shown
    assert "auc eval/headline: weighted exceeds uniform?" in shown


def test_a_dry_run_shows_commands_and_runs_nothing(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", mine, "--seeds", "2", "--dry-run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len([line for line in shown if line.startswith("selfteach train sft")]) == 4
    assert main(["study", mine, "--dry-run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len([line for line in shown if "--seed 1000" in line]) == 2 * 3, "tuning comes first"
    assert not Path("runs").exists()


def test_all_methods_are_compared_on_one_task_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("selfteach.studies.STUDIES", {"sft": Study("sft", (claim(),))})
    monkeypatch.setattr("selfteach.cli.study.STUDIES", {"sft": Study("sft", (claim(),))})
    words = ["study", "--dry-run", "--seeds", "1", "--out", str(tmp_path)]
    for more, common in (([], True), (["--common-task", "none"], False), (["sft"], False)):
        assert main([*words, *more]) == 0
        assert ("train opsd --task tutor" in capsys.readouterr().out) is common


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study", "pw-ospd"], "did you mean pw-opsd"),
        (["study", "--seeds", "0"], "seeds must be above 0"),
        (["study", "--seeds", "5"], "claims are looked at with 4, 8, 16, … seeds; give 4 or 8"),
        (["study", "sdpo", "--all"], "--all is every method: name none beside it"),
        (["study", "--budget", "0"], "budget must be above 0"),
        (["study", "--jobs", "0"], "jobs must be above 0"),
        (["study", "none.py:STUDY"], "none.py"),
        (["study", "sdpo", "--common-task", "tuttor"], "tuttor"),
        (["compare", "--suite", "first"], "selfteach study"),
        (["compare", "opsd", "--suite=first"], "selfteach study"),
    ],
)
def test_a_mistake_gets_one_line(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def finished_at_once(monkeypatch: pytest.MonkeyPatch, headline: float | str) -> list[str]:
    """Instead of a crew: every run at its end, nothing trained; their labels. Longer runs are a little better."""
    made: list[str] = []

    def make(
        self: Crew, runs: Sequence[Work], ended: Callable[[Work, int], None], more: Callable[[], bool]
    ) -> None:
        for run in runs:
            made.append(run.folder.name)
            begun(run)
            longer = run.words[run.words.index("--steps") + 1] == "2" if "--steps" in run.words else False
            end = (
                headline
                if isinstance(headline, str)
                else headline + 0.4 * longer + 0.001 * (run.seed % 5) ** 2
            )
            if longer and isinstance(end, float):
                end += 0.001 * run.seed % 7
            rows = [{"step": i, "eval/headline": x, "spent/tokens": 3} for i, x in enumerate([0.1, end])]
            (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            ended(run, 0)

    monkeypatch.setattr(Crew, "make", make)
    return made


def test_results_lie_beside_the_runs_unless_a_folder_is_asked_for(
    mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_at_once(monkeypatch, 0.5)
    assert main(["study", mine, "--seeds", "4"]) == 0
    written = Path("runs/study/methods.md").read_text()
    assert not Path("results").exists()
    assert "Command: `selfteach study mine.py:STUDY --seeds 4`" in written
    assert "*reproduced* (p = " in written
    assert "Both sides of a claim get the same tuning" in written
    assert f"- sft, long: `sft {SHORT} --steps 2`" in written
    assert "long: --lr 0.0003; short: " in written or "long: as written; short: as written" in written
    found = json.loads(Path("runs/study/methods.json").read_text())["claims"][0]
    assert found["higher"]["by_seed"] == pytest.approx([0.9, 0.902, 0.906, 0.912])
    assert found["effect"] == pytest.approx(statistics.fmean([0.4, 0.401, 0.402, 0.403]))
    assert found["interval"][0] < found["effect"] < found["interval"][1]
    assert (found["rule"], found["verdict"], found["seeds"]) == ("exceeds", "reproduced", 4)
    assert set(found["tried"]) == {"long", "short"}
    assert main(["study", mine, "--seeds", "4", "--results", "asked", "--out", "other"]) == 0
    assert Path("asked/methods.md").exists()
    assert not Path("other/methods.md").exists()


def test_a_table_is_made_on_another_day_from_rows_alone_and_folders_are_deleted(
    mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = finished_at_once(monkeypatch, 0.5)
    words = ["study", mine, "--seeds", "4", "--results", "kept"]
    assert main(words) == 0
    assert len(made) == len(set(made)) == 2 * 3 * 2 + 2 * 4
    assert list(Path("runs/study").iterdir()) == []
    first = Path("kept/methods.json").read_text()
    shutil.rmtree("runs")
    Path("kept/methods.json").unlink()
    assert main(words) == 0
    assert len(made) == 20
    assert Path("kept/methods.json").read_text() == first
    assert main([*words, "--dry-run"]) == 0


def test_the_folders_of_finished_runs_are_kept_on_request(mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = finished_at_once(monkeypatch, 0.5)
    assert main(["study", mine, "--seeds", "2", "--keep"]) == 0
    assert {path.name for path in Path("runs/study").iterdir() if (path / "summary.json").exists()} == set(
        made
    )


def test_no_run_is_started_after_the_budget(mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = finished_at_once(monkeypatch, 0.5)
    monkeypatch.setattr("selfteach.studies.runner.time.monotonic", iter(range(0, 10_000, 61)).__next__)
    assert main(["study", mine, "--seeds", "4", "--budget", "1"]) == 0
    assert made == []
    assert "not tuned yet: long, short" in Path("runs/study/methods.md").read_text()


def test_other_methods_that_rows_are_there_of_stand_in_the_table_and_those_without_are_named(
    mine: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_at_once(monkeypatch, 0.5)
    small = Study("tip", (claim({"a": "tip --steps 2 --task table", "b": "tip --steps 1 --task table"}),))
    monkeypatch.setattr("selfteach.cli.study.STUDIES", {"tip": small, "sdpo": STUDIES["sdpo"]})
    monkeypatch.setattr(
        "selfteach.cli.study.study_named", lambda name: small if name == "tip" else study_named(name)
    )
    assert main(["study", "tip", "--seeds", "4"]) == 0
    capsys.readouterr()
    assert main(["study", mine, "--seeds", "4"]) == 0
    said = capsys.readouterr().out
    assert "\nsft: longer is better: reproduced (eval/headline 0.4" in said
    assert "tip" not in said
    alone = Path("runs/study/methods.md").read_text()
    assert "| tip | a beats b |" in alone
    assert "not studied here" not in alone, "a study of one's own is no part of the methods' table"
    assert "without a claim" not in alone
    assert main(["study", mine, "tip", "--seeds", "4"]) == 0
    written = Path("runs/study/methods.md").read_text()
    assert "| tip | a beats b |" in written
    assert "| sft | longer is better |" in written
    assert "- not studied here: sdpo; `selfteach study sdpo` shows them" in written
    assert "gkd" in written.partition("- without a claim: ")[2]


def test_few_seeds_are_undecided_and_show_no_spread(mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_at_once(monkeypatch, 0.5)
    monkeypatch.setattr(plans, "BASELINES", ())
    assert main(["study", mine, "--seeds", "1", "--common-task", "tutor"]) == 0
    for name in ("methods.md", "methods.json", "methods.html"):
        assert "nan" not in re.findall(r"\w+", Path("runs/study", name).read_text().lower())
    written = Path("runs/study/methods.md").read_text()
    assert "*undecided*: a verdict needs 4 seeds at least" in written
    assert "long 0.9 exceeds short 0.5? | 0.4 | 1 | not tuned |" in written


def test_a_nan_stands_in_the_results_without_a_verdict(mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_at_once(monkeypatch, "NaN")
    assert main(["study", mine, "--seeds", "2"]) == 0
    written = Path("runs/study/methods.md").read_text()
    assert "- sft: longer is better: eval/headline of long is nan at seed 0" in written
    assert not any(f"| *{word}*" in written for word in ("reproduced", "refuted", "undecided"))


def test_a_metric_that_is_none_is_refused_after_the_other_claims_results_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_at_once(monkeypatch, 0.5)
    study = asked(tmp_path / "runs", claim(metric="eval/headlines"), claim(), seeds=4)
    with pytest.raises(UserError, match=r"study of sft: .*did you mean eval/headline"):
        run_studies(study, resolved, jobs=1, command="", results=tmp_path)
    assert "*reproduced*" in (tmp_path / "methods.md").read_text()


def test_a_failed_run_leaves_the_results_of_the_others_which_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_at_once(monkeypatch, 0.5)
    make = Crew.make

    def fail(self: Crew, runs: Sequence[Work], ended: Callable[[Work, int], None], more: Any) -> None:
        broken = [run for run in runs if run.words[run.words.index("--steps") + 1] == "7"]
        for run in broken:
            run.folder.with_name(f"{run.folder.name}.log").write_text("much\nout of memory\n")
            ended(run, 2)
        make(self, [run for run in runs if run not in broken], ended, more)

    monkeypatch.setattr(Crew, "make", fail)
    study = asked(tmp_path, claim({**VARIANTS, "b": "sft --steps 7"}), claim(), seeds=4)
    with pytest.raises(
        UserError, match=r"seed 0 ended with code 2 \(out of memory\); the log is .*\(and 3 more\)"
    ):
        run_studies(study, resolved, jobs=1, command="", results=tmp_path)
    written = (tmp_path / "methods.md").read_text()
    assert "- sft: a beats b: not finished: b; `selfteach study sft` shows it" in written
    assert "*reproduced*" in written


def test_an_interruption_leaves_the_results_of_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Crew, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_studies(asked(tmp_path), resolved, jobs=1, command="", results=tmp_path)
    assert "- sft: a beats b: not finished: a, b" in (tmp_path / "methods.md").read_text()


@pytest.mark.slow
def test_a_study_runs_its_variants_and_writes_claims_table_and_plot_and_resumes(
    mine: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real runs by real workers."""
    monkeypatch.setattr(plans, "BASELINES", ())
    words = ["study", mine, "--seeds", "2", "--jobs", "2", "--common-task", "table", "--tokens", "100"]
    assert main(words) == 0
    written = Path("runs/study/methods.md").read_text()
    assert "longer is better" in written
    assert "*undecided*" in written or "*no verdict*" in written
    assert Path("runs/study/methods.html").exists()
    assert "seed 0: " in capsys.readouterr().out
    assert main(words) == 0
    assert "seed 0: " not in capsys.readouterr().out


@pytest.mark.slow
def test_a_worker_makes_the_very_runs_that_the_commands_make(mine: str) -> None:
    """The second run of a process, without preflight, is bit for bit that of a process of its own."""
    assert main(["study", mine, "--seeds", "2", "--keep"]) == 0
    plan = plan_of(StudySettings((study_named(mine),), Path("runs/study"), 2), Path("none"))
    for work in missing(plan)[2]:
        words = [
            str(work.folder.with_name("alone") / work.folder.name) if w == str(work.folder) else w
            for w in work.words
        ]
        assert main(words) == 0
        for made in (work.folder, work.folder.with_name("alone") / work.folder.name):
            rows = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
            kept = [
                {k: v for k, v in r.items() if not k.startswith(("seconds", "memory", "tokens_per"))}
                for r in rows
            ]
            (made / "compared").write_text(json.dumps(kept))
        alone = work.folder.with_name("alone") / work.folder.name
        assert (work.folder / "compared").read_text() == (alone / "compared").read_text()


def test_a_study_of_ones_own_finds_its_recipe_beside_it_and_shows_no_path(tmp_path: Path) -> None:
    folder = tmp_path / "else where"
    folder.mkdir()
    (folder / "mine.py").write_text(
        "from selfteach.studies import Claim, Study\n"
        "VARIANTS = {'a': 'mine.py:Own --steps 1', 'b': 'opsd --steps 2'}\n"
        "STUDY = Study('mine', (Claim('says', VARIANTS, 'a', 'b'),), task='table')\n"
    )
    study = study_named(f"{folder / 'mine.py'}:STUDY")
    claim = study.claims[0]
    assert shlex.split(study.words(claim, "a")) == [
        f"{folder / 'mine.py'}:Own",
        *["--steps", "1", "--task", "table"],
    ]
    assert study.written(claim, "a") == "mine.py:Own --steps 1 --task table"
    assert study.words(claim, "b") == study.written(claim, "b") == "opsd --steps 2 --task table"
