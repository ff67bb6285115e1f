"""Studies: claims become runs, runs become verdicts."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfteach.cli import main
from selfteach.cli.train import run_of
from selfteach.errors import UserError
from selfteach.recipes import RECIPES
from selfteach.studies import STUDIES, study_named
from selfteach.studies import plan as plans
from selfteach.studies.answer import Answer, Open, answer, measured
from selfteach.studies.outdated import forget, outdated
from selfteach.studies.plan import Plan, Resolve, StudySettings, label_of, planned, planned_variant
from selfteach.studies.results import mean_and_error
from selfteach.studies.runner import commands, run_studies
from selfteach.studies.runs import Planned, cells, condensed
from selfteach.studies.study import Claim, Study, built_on
from selfteach.studies.verdict import ONE_SIDED_95, Exceeds, Rule, Within, margin
from selfteach.training.launch import table_of
from selfteach.training.rundir import RunFolder

VARIANTS = {"a": "sft --steps 2", "b": "sft --steps 1"}
BUILT = {"teacher": "opsd", "student": "exopd --teacher {variant teacher}/model"}


def claim(
    variants: Mapping[str, str] = VARIANTS,
    higher: str = "a",
    lower: str = "b",
    metric: str = "eval/headline",
    rule: Rule | None = None,
) -> Claim:
    return Claim("a beats b", variants, higher, lower, metric, rule or Exceeds())


def built(**changes: Any) -> Claim:
    return claim(variants=BUILT, higher="student", lower="teacher", **changes)


def asked(out: Path, *claims: Claim, task: str = "", method: str = "sft", **settings: Any) -> StudySettings:
    return StudySettings((Study(method, claims or (claim(),), task),), out, **{"seeds": 2, **settings})


def untried(words: Sequence[str]) -> Any:
    """In place of the command line, where a test is not about what words mean."""


# --- verdicts


@pytest.mark.parametrize(
    ("higher", "lower", "verdict"),
    [
        ([0.9, 0.91, 0.89], [0.1, 0.12, 0.11], "reproduced"),
        ([0.1, 0.12, 0.11], [0.9, 0.91, 0.89], "refuted"),
        ([0.5, 0.6, 0.4], [0.45, 0.5, 0.55], "undecided"),
        ([0.5, 0.5], [0.5, 0.5], "undecided"),
        ([0.9], [0.1], "undecided"),
    ],
)
def test_a_verdict_needs_a_difference_beyond_the_spread_over_seeds(
    higher: list[float], lower: list[float], verdict: str
) -> None:
    assert Answer("m", claim(), higher, lower).verdict == verdict


@pytest.mark.parametrize(
    ("higher", "verdict"),
    [
        ([0.50, 0.51, 0.49], "reproduced"),
        ([0.9, 0.91, 0.89], "refuted"),
        ([0.1, 0.11, 0.09], "refuted"),
        ([0.5, 0.7, 0.3], "undecided"),
    ],
)
def test_equality_is_reproduced_only_where_the_whole_interval_is_within(
    higher: list[float], verdict: str
) -> None:
    assert Answer("m", claim(rule=Within(0.1)), higher, [0.5, 0.5, 0.5]).verdict == verdict


def test_equality_is_undecided_from_one_seed() -> None:
    assert Answer("m", claim(rule=Within(0.1)), [0.5], [0.5]).verdict == "undecided"


def test_the_differences_are_paired_by_seed() -> None:
    """Seeds differ by far more than the variants do; without pairing nothing would be seen."""
    assert Answer("m", claim(), [0.11, 0.52, 0.93], [0.1, 0.5, 0.9]).verdict == "reproduced"


def test_the_margin_is_students_t_times_the_standard_error() -> None:
    assert margin([1.0, 2.0, 3.0]) == pytest.approx(2.92 / math.sqrt(3))
    assert margin([1.0]) == math.inf
    assert margin([0.0, 1.0] * 100) == pytest.approx(1.697 * np.std([0, 1] * 100, ddof=1) / math.sqrt(200))


@pytest.mark.parametrize("freedom", range(1, 31))
def test_the_bound_leaves_five_percent_of_students_density_above_it(freedom: int) -> None:
    bound = ONE_SIDED_95[freedom - 1]
    at = np.linspace(0, bound, 20_001)
    density = (1 + at**2 / freedom) ** (-(freedom + 1) / 2)
    inside = np.sum((density[1:] + density[:-1]) / 2) * (at[1] - at[0])
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    assert 0.5 + scale * inside == pytest.approx(0.95, abs=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_no_answer(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        Answer("m", claim(), [0.9, value], [0.1, 0.1])


def test_a_tolerance_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="tolerance"):
        Within(0.0)


def test_a_claims_own_rule_is_the_one_that_decides() -> None:
    class Never:
        relation = "never exceeds"
        says = "Never."

        def verdict(self, differences: Sequence[float]) -> Any:
            return "refuted"

    assert Answer("m", claim(rule=Never()), [0.9, 0.91], [0.1, 0.1]).verdict == "refuted"


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
        ({"metric": "men loss"}, "no NAME, nor one after one of last, first, mean, max"),
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


def test_an_unknown_study_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean sdpo"):
        study_named("sdop")


def test_a_reference_to_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("STUDY = 3\n")
    with pytest.raises(UserError, match="no Study but int"):
        study_named(f"{tmp_path}/mine.py:STUDY")


# --- the methods' own studies


def test_every_study_has_its_recipes_name_and_stands_in_its_order() -> None:
    assert [name for name in RECIPES if name in STUDIES] == list(STUDIES)
    assert all(study.method == name for name, study in STUDIES.items())


@pytest.mark.parametrize("name", STUDIES)
def test_a_studys_words_are_understood_and_its_sides_differ(name: str) -> None:
    study = STUDIES[name]
    for one in study.claims:
        settings = {}
        for label in one.variants:
            words = study.words(one, label)
            assert "--task" in words, "the task of a recipe may change; that of a study may not"
            for other in built_on(words):
                words = words.replace(f"{{variant {other}}}", "elsewhere")
            settings[label] = table_of(run_of([*shlex.split(words), "--out", "x"]))
        assert settings[one.higher] != settings[one.lower], one.says


def test_a_runs_folder_is_a_fingerprint_of_its_words() -> None:
    """Finished runs are found by it."""
    assert label_of("pw-opsd --task chain --steps 80") == "pw-opsd-12076ef6"


# --- plans


def test_a_variant_that_builds_on_another_waits_for_it_and_gets_its_folder(tmp_path: Path) -> None:
    plan = planned(asked(tmp_path / "with space", built()), untried)
    teacher, student = plan.waves
    assert [run.label for run in teacher] == [label_of(BUILT["teacher"])] * 2
    assert f"{teacher[1].folder}/model" in student[1].words


def test_a_variants_own_evaluation_settings_stand(tmp_path: Path) -> None:
    variants = {**VARIANTS, "a": "sft --eval-problems=8 --samples-every 3"}
    run = planned_variant(asked(tmp_path), Study("sft", (one := claim(variants),)), one, "a")[0]
    assert "256" not in run.words
    assert run.words.count("--samples-every") == 1
    assert "--eval-samples" in run.words


def test_the_studys_task_is_that_of_variants_that_name_none(tmp_path: Path) -> None:
    one = claim({"a": "sft", "b": "sft --task chain"})
    study = Study("sft", (one,), task="facts")
    assert study.words(one, "a") == "sft --task facts"
    assert study.words(one, "b") == "sft --task chain"
    run = planned_variant(asked(tmp_path), study, one, "a")[0]
    assert run.folder.name == f"{label_of('sft')}-0"


def test_variants_of_equal_words_are_one_run(tmp_path: Path) -> None:
    plan = planned(asked(tmp_path, claim(), claim({**VARIANTS, "b": "sft --steps 3"})), untried)
    assert len(plan.waves[0]) == 2 * 3


def test_words_that_would_mean_two_runs_are_refused(tmp_path: Path) -> None:
    studies = tuple(Study("sft", (claim(),), task) for task in ("table", "chain"))
    with pytest.raises(UserError, match="two claims mean different runs by the words 'sft --steps 2'"):
        planned(StudySettings(studies, tmp_path), untried)


def test_words_that_are_none_are_refused_before_any_run(tmp_path: Path) -> None:
    study = asked(tmp_path, claim({**VARIANTS, "b": "sft --stpes 1"}), method="mine")
    with pytest.raises(UserError, match=r"study of mine, variant 'b':.*--steps"):
        planned(study, run_of)
    assert not any(tmp_path.iterdir())


def test_the_common_task_has_the_baselines_and_a_budget_for_those_that_sample(tmp_path: Path) -> None:
    study = asked(tmp_path, method="sdpo", common_task="tutor", tokens=500)
    common = planned(study, run_of).common
    assert list(common) == ["opsd", "grpo", "sft", "sdpo"]
    assert common["sdpo"][1].folder.name == "tutor-500-sdpo-1"
    assert ["--token-budget" in common[name][0].words for name in common] == [True, True, False, True]
    assert planned(asked(tmp_path), run_of).common == {}


# --- runs of before


def begun(run: Planned, resolve: Resolve = run_of) -> None:
    """A finished run's folder, as it would be by now."""
    with RunFolder.create(run.folder) as folder:
        folder.write_config(table_of(resolve(run.words[1:])))
        folder.summary({})


def test_a_run_whose_settings_have_changed_is_made_anew(tmp_path: Path) -> None:
    plan = planned(asked(tmp_path), run_of)
    runs = plan.variants["sft --steps 2"]
    for run in runs:
        begun(run)
    text = (runs[1].folder / "config.toml").read_text()
    (runs[1].folder / "config.toml").write_text(text.replace("steps = 2", "steps = 3"))
    stale = outdated(plan, run_of)
    assert list(stale) == [runs[1].folder]
    assert "steps: 3 → 2" in stale[runs[1].folder]
    forget(stale)
    assert [run.folder.exists() for run in runs] == [True, False]


def test_a_run_whose_teacher_is_to_be_made_anew_is_so_too(tmp_path: Path) -> None:
    plan = planned(asked(tmp_path, built(), seeds=3), run_of)
    teachers, students = (plan.variants[BUILT[label]] for label in ("teacher", "student"))
    for run in (*teachers[:2], *students):
        begun(run)
    text = (teachers[1].folder / "config.toml").read_text()
    (teachers[1].folder / "config.toml").write_text(text.replace("seed = 1", "seed = 7"))
    assert set(outdated(plan, run_of)) == {teachers[1].folder, students[1].folder, students[2].folder}


def test_the_commands_that_would_run_leave_out_what_is_finished(tmp_path: Path) -> None:
    study = asked(tmp_path, built(), seeds=1)
    first, second = commands(study, run_of)
    assert first[0].startswith("selfteach train opsd --seed 0")
    assert f"--teacher {tmp_path}/{label_of('opsd')}-0/model" in second[0]
    begun(planned(study, run_of).variants["opsd"][0])
    assert commands(study, run_of) == [second]


# --- what runs say


@pytest.fixture
def run(tmp_path: Path) -> Planned:
    rows = [
        {"step": 0, "eval/headline": 0.2},
        {"step": 1, "loss": 3.0, "holes": 1.0, "alarms": ["loud"]},
        {"step": 2, "loss": 1.0, "holes": "NaN"},
        {"step": 2, "eval/headline": 0.4},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "summary.json").write_text('{"spent": 7, "unit": "tokens", "best": null}')
    return Planned("a", 0, tmp_path)


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
    ],
)
def test_a_metric_is_read_from_the_rows_that_have_it(run: Planned, metric: str, value: float) -> None:
    assert measured(claim(metric=metric), run) == value


@pytest.mark.parametrize("how", ["last", "mean", "max"])
def test_a_nan_is_not_hidden_by_the_numbers_beside_it(run: Planned, how: str) -> None:
    assert math.isnan(measured(claim(metric=f"{how} holes"), run))


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
        measured(claim(metric=metric), run)
    assert said in str(refused.value)


def said_by(tmp_path: Path, one: Claim, **values: Sequence[float | str]) -> Answer | Open:
    """The answer to ``one`` where the variants' runs end with these headlines."""
    runs: dict[str, list[Planned]] = {}
    for label, ends in values.items():
        runs[one.variants[label]] = [Planned(label, i, tmp_path / f"{label}-{i}") for i in range(len(ends))]
        for own, end in zip(runs[one.variants[label]], ends, strict=True):
            own.folder.mkdir()
            (own.folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "eval/headline": end}) + "\n")
            (own.folder / "summary.json").write_text("{}")
    study = Study("m", (one,))
    return answer(Plan([(study, one)], runs, {}), study, one)


def test_finished_runs_answer_a_claim(tmp_path: Path) -> None:
    found = said_by(tmp_path, claim(), a=[0.9, 0.91], b=[0.1, 0.1])
    assert isinstance(found, Answer)
    assert (found.higher, found.lower, found.verdict) == ([0.9, 0.91], [0.1, 0.1], "reproduced")


def test_a_nan_becomes_no_verdict_but_is_told_with_its_variant_and_seed(tmp_path: Path) -> None:
    found = said_by(tmp_path, claim(), a=[0.9, "NaN"], b=[0.1, 0.1])
    assert isinstance(found, Open)
    assert found.reason == "eval/headline of a is nan at seed 1"
    assert not found.defect


def test_a_metric_that_no_run_wrote_is_a_defect_of_the_study(tmp_path: Path) -> None:
    found = said_by(tmp_path, claim(metric="eval/headlines"), a=[0.9], b=[0.1])
    assert isinstance(found, Open)
    assert found.defect
    assert "did you mean eval/headline" in found.reason


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


def test_the_list_shows_claims_and_variants(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", mine, "pw-opsd", "--list"]) == 0
    shown = capsys.readouterr().out
    assert "longer is better" in shown
    assert "weighted: selfteach train pw-opsd --task chain --steps 80\n" in shown
    assert "eval/headline: weighted exceeds uniform?" in shown


def test_a_dry_run_shows_commands_and_runs_nothing(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", mine, "--seeds", "2", "--dry-run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len([line for line in shown if line.startswith("selfteach train sft")]) == 4
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


def finished_at_once(headline: float | str) -> Any:
    """In place of ``finish``: every run at its end, nothing trained. Longer runs are a little better."""

    def finish(runs: Sequence[Planned], jobs: int) -> None:
        for run in runs:
            begun(run)
            longer = run.words[run.words.index("--steps") + 1] == "2" if "--steps" in run.words else False
            end = headline if isinstance(headline, str) else headline + 0.1 * longer + 0.01 * run.seed
            row = {"step": 1, "eval/headline": end, "spent/tokens": 3}
            (run.folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
            facts = {"steps": 1, "spent": 3, "unit": "tokens", "training_seconds": 1.0}
            (run.folder / "summary.json").write_text(json.dumps(facts))

    return finish


def test_results_lie_beside_the_runs_unless_a_folder_is_asked_for(
    mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfteach.studies.runner.finish", finished_at_once(0.5))
    assert main(["study", mine, "--seeds", "2"]) == 0
    written = Path("runs/study/methods.md").read_text()
    assert not Path("results").exists()
    assert "Command: `selfteach study mine.py:STUDY --seeds 2`" in written
    assert "*reproduced*" in written
    assert "No variant is tuned" in written
    assert f"- sft, long: `sft {SHORT} --steps 2`" in written
    found = json.loads(Path("runs/study/methods.json").read_text())["claims"][0]
    assert found["higher"]["by_seed"] == pytest.approx([0.6, 0.61])
    assert (found["rule"], found["verdict"]) == ("exceeds", "reproduced")
    assert main(["study", mine, "--seeds", "2", "--results", "asked", "--out", "other"]) == 0
    assert Path("asked/methods.md").exists()
    assert not Path("other/methods.md").exists()


def test_one_seed_is_undecided_and_shows_no_spread(mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfteach.studies.runner.finish", finished_at_once(0.5))
    monkeypatch.setattr(plans, "BASELINES", ())
    assert main(["study", mine, "--seeds", "1", "--common-task", "tutor"]) == 0
    for name in ("methods.md", "methods.json", "methods.html"):
        assert "nan" not in re.findall(r"\w+", Path("runs/study", name).read_text().lower())
    written = Path("runs/study/methods.md").read_text()
    assert "*undecided*" in written
    assert "long 0.6 exceeds short 0.5? difference 0.1 |" in written


def test_a_nan_stands_in_the_results_without_a_verdict(mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfteach.studies.runner.finish", finished_at_once("NaN"))
    assert main(["study", mine, "--seeds", "2"]) == 0
    written = Path("runs/study/methods.md").read_text()
    assert "- sft: longer is better: eval/headline of long is nan at seed 0" in written
    assert not any(f"| *{word}* |" in written for word in ("reproduced", "refuted", "undecided"))


def test_a_metric_that_is_none_is_refused_after_the_other_claims_results_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfteach.studies.runner.finish", finished_at_once(0.5))
    study = asked(tmp_path / "runs", claim(metric="eval/headlines"), claim())
    with pytest.raises(UserError, match=r"study of sft: .*did you mean eval/headline"):
        run_studies(study, run_of, jobs=1, command="", results=tmp_path)
    assert "*reproduced*" in (tmp_path / "methods.md").read_text()


def test_a_failed_run_leaves_the_results_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(runs: Sequence[Planned], jobs: int) -> None:
        raise UserError("out of memory")

    monkeypatch.setattr("selfteach.studies.runner.finish", fail)
    with pytest.raises(UserError, match="out of memory"):
        run_studies(asked(tmp_path), run_of, jobs=1, command="", results=tmp_path)
    assert "- sft: a beats b: not finished: a, b" in (tmp_path / "methods.md").read_text()


@pytest.mark.slow
def test_a_study_runs_its_variants_and_writes_claims_table_and_plot_and_resumes(
    mine: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plans, "BASELINES", ())
    words = ["study", mine, "--seeds", "2", "--jobs", "2", "--common-task", "table", "--tokens", "100"]
    assert main(words) == 0
    written = Path("runs/study/methods.md").read_text()
    assert "longer is better" in written
    assert any(f"*{verdict}*" in written for verdict in ("reproduced", "undecided", "refuted"))
    assert Path("runs/study/methods.html").exists()
    capsys.readouterr()
    assert main(words) == 0
    assert "starting" not in capsys.readouterr().out


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
