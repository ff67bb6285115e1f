"""The report reads a run folder and nothing else, shows its numbers truly and its text inertly."""

import base64
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from safetensors.numpy import load_file, save_file

from selfteach.errors import UserError
from selfteach.report import build_report, comparison_page, explorer
from selfteach.report.curves import (
    Chart,
    Series,
    columns,
    main_charts,
    other_charts,
)
from selfteach.report.older import summary_of_today
from selfteach.report.page import differing_from_paper, differing_settings, paired
from selfteach.report.plot import draw, ticks
from selfteach.report.reading import read_run, sample
from selfteach.report.several_runs import comparison_charts, other_shared_charts
from selfteach.report.text import as_number, block, exact, number, short, visible
from synthetic_run import write_run

NASTY = "<script>alert(1)</script><img src=x onerror=alert(2)> \u202eevil\u2066 \x1b[31m \x00 \ud800 {{ 7*7 }} '\"&"

CONFIG = {
    "about": {
        "title": "On-Policy Self-Distillation",
        "source": "arXiv 2601.18734",
        "formula": "Σ q log(q/p)",
    },
    "recipe": {"name": "opsd", "preset": "arena", "beta": 1.0, "rollouts": {"top_k": 0, "max_tokens": 64}},
    "paper": {"beta": 0.0, "clip_entry": 0.05, "rollouts": {"top_k": 20, "max_tokens": 64}},
    "run": {"task": "table", "seed": 3},
}


def metric_rows(steps: int = 40) -> list[dict]:
    rows = [
        {
            "step": 0,
            "spent/tokens": 0,
            "eval/headline": 0.31,
            "eval/headline_se": 0.02,
            "eval/accuracy": 0.31,
            "eval/accuracy_se": 0.02,
            "eval/pass@4": 0.5,
        }
    ]
    for step in range(1, steps + 1):
        rows.append(
            {
                "step": step,
                "loss": 1 / step,
                "terms": {"match": 1 / step},
                "divergence/teacher": 0.3,
                "divergence/teacher/style": 0.9,
                "divergence/teacher/content": 0.1,
                "entropy/student": 0.5,
                "length/mean": 31.2,
                "spent/tokens": 1984 * step,
                "tokens_per_second": 5200,
                "seconds/sample": 0.2,
                "seconds/update": 0.1,
                "lr": 3e-4,
            }
        )
    last = {"eval/headline": 0.91, "eval/headline_se": 0.01, "eval/accuracy": 0.91, "eval/accuracy_se": 0.01}
    rows.append({"step": steps, **last, "eval/pass@4": 0.99})
    return rows


def sample_rows() -> list[dict]:
    answers = {"a": ("wrong a", 0.0, "right a", 1.0), "b": ("right b", 1.0, "wrong b", 0.0)}
    rows = []
    for key, (before, old, after, new) in answers.items():
        shared = {"key": key, "problem": f"problem {key}", "prompt": f"user: {key}", "finished": True}
        rows.append({"step": 0, "phase": "before", "answer": before, "reward": old, **shared})
        rows.append({"step": 40, "phase": "after", "answer": after, "reward": new, **shared})
    teachers = {"teacher_prompts": {"teacher": "user: with the solution"}}
    rows.append(
        {"step": 20, "phase": "train", "key": "t", "prompt": "user: t", "answer": "rollout", "reward": 1.0}
        | teachers
    )
    return rows


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "opsd-table"
    folder.mkdir()
    (folder / "config.toml").write_text(tomli_w.dumps(CONFIG))
    (folder / "metrics.jsonl").write_text(lines(metric_rows()))
    (folder / "samples.jsonl").write_text(lines(sample_rows()))
    (folder / "summary.json").write_text(json.dumps({"steps": 40, "training_seconds": 79.25}))
    return folder


class Elements(HTMLParser):
    """Every element with its attributes, and the page's text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


def page(path: Path) -> Elements:
    return Elements(path.read_text(encoding="utf-8"))


def explored(path: Path) -> dict:
    """What the page's token view is given."""
    html = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.S)[1])


# --- the page as a whole


def test_the_page_stands_in_the_run_folder_unless_told_otherwise(run, tmp_path):
    assert build_report(run) == run / "report.html"
    assert build_report(run, tmp_path / "pages" / "one.html") == tmp_path / "pages" / "one.html"


def test_the_page_shows_recipe_formula_and_the_numbers_to_see_first(run):
    shown = page(build_report(run)).text
    for text in (
        "opsd: On-Policy Self-Distillation",
        "arXiv 2601.18734",
        "Σ q log(q/p)",
        "Finished after 40 steps",
    ):
        assert text in shown
    assert "0.310 ± 0.020 → 0.910 ± 0.010" in shown
    assert "79,360" in shown
    assert "79.2 s" in shown


def test_every_asked_curve_is_on_the_page(run):
    shown = page(build_report(run)).text
    for title in ("Held-out accuracy", "Loss", "Divergence from teacher, by token class", "Entropy", "Response length",
                  "Spent", "Speed", "Time by phase"):  # fmt: skip
        assert title in shown


def test_what_the_student_reads_before_a_problem_can_be_unfolded(run):
    html = build_report(run).read_text()
    assert re.search(r"<details><summary>What the student reads</summary><pre[^>]*>user: a</pre>", html)


def test_a_rollout_comes_with_both_prompts(run):
    found = explored(build_report(run))
    (one,) = found["rollouts"]
    assert found["texts"][one["prompt"]] == "user: t"
    assert [(name, found["texts"][text]) for name, text in one["readers"]] == [
        ("teacher", "user: with the solution")
    ]
    assert found["texts"][one["answer"]] == "rollout"


def test_the_page_loads_nothing_and_allows_only_its_own_style_and_script(run):
    found = page(build_report(run))
    assert not [
        a
        for _, a in found.found
        if {"src", "srcset", "action", "style"} & a.keys() or "http" in a.get("href", "")
    ]
    assert not found.named("link")
    (policy,) = [
        a["content"] for a in found.named("meta") if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/]+=*'", policy)
    assert "unsafe" not in policy


def test_the_same_folder_gives_the_same_page(run, tmp_path):
    assert build_report(run, tmp_path / "1").read_bytes() == build_report(run, tmp_path / "2").read_bytes()


def test_a_run_of_an_older_format_shows_what_it_showed(run, tmp_path):
    """Folders were written before there was a headline and before spending had a unit."""
    before = build_report(run, tmp_path / "today.html").read_text()
    older = [
        {k: v for k, v in row.items() if not k.startswith(("eval/headline", "spent/"))}
        | ({"tokens/generated": row["spent/tokens"]} if "spent/tokens" in row else {})
        for row in metric_rows()
    ]
    (run / "metrics.jsonl").write_text(lines(older))
    found = page(build_report(run, tmp_path / "older.html"))
    assert "0.310 ± 0.020 → 0.910 ± 0.010" in found.text
    assert "79,360" in found.text
    charts = [
        [a["data-hover"] for a in Elements(html).named("figure")]
        for html in (before, build_report(run).read_text())
    ]
    assert charts[0] == charts[1]


def test_an_older_summary_is_read_in_todays_names():
    older = {"steps": 3, "generated_tokens": 70, "eval/accuracy": 0.5}
    assert summary_of_today(older) == {
        "steps": 3,
        "spent": 70,
        "unit": "tokens",
        "headline": 0.5,
        "eval/accuracy": 0.5,
    }
    assert summary_of_today(today := {"spent": 1, "unit": "fits"}) == today


OTHER = {
    **CONFIG,
    "run": {"seed": 1, "unit": "frames", "headline": "distance in meters", "better": "lower"},
}


def other_run(run, samples: list[dict]) -> Elements:
    rows = [{"step": i, "spent/frames": 50 * i, "eval/headline": 0.004 / (i + 1)} for i in range(3)]
    (run / "config.toml").write_text(tomli_w.dumps(OTHER))
    (run / "metrics.jsonl").write_text(lines(rows))
    (run / "samples.jsonl").write_text(lines(samples))
    return page(build_report(run))


def test_a_run_of_another_unit_and_headline_is_labeled_by_itself(run):
    found = other_run(run, [])
    for text in ("Distance in meters", "0.004 → 0.00133", "frames spent", "Spent"):
        assert text in found.text
    assert "accuracy" not in found.text
    assert "tokens spent" not in found.text


def test_points_are_drawn_and_other_samples_are_shown_as_they_are(run):
    scatter = {"step": 2, "phase": "train", "kind": "points", "key": "ring"}
    episode = {
        "step": 2,
        "phase": "after",
        "kind": "episode",
        "key": "walk",
        "steps": [{"action": NASTY[:40]}],
    }
    points = {"model": [[0, 0], [1, 1], ["NaN", 1], "no point", [1e300, 0]], "data": [[-1, -1]]}
    found = other_run(run, [{**scatter, "points": points}, episode])
    dots = [
        (float(a["cx"]), float(a["cy"])) for tag, a in found.found if tag == "circle" and a["r"] == "1.75"
    ]
    assert len(dots) == 3
    (left, middle), (x, y), (lower, upper) = dots[0], dots[1], dots[2]
    assert (x - left, middle - y) == pytest.approx((left - lower, upper - middle), abs=0.2)
    for text in ("ring", "step 2, train", "model", "data", "walk", '"action"'):
        assert text in found.text
    assert "Token by token" not in found.text
    assert not found.named("img")


@pytest.mark.parametrize("points", [None, [], {}, {"a": []}, {"a": None}, {"a": [[1, 2]]}])
def test_points_that_are_none_or_one_can_be_drawn(run, points):
    other_run(run, [{"step": 2, "kind": "points", "points": points}])


def test_many_samples_are_thinned_evenly_and_keep_their_ends(run):
    rows = [{"step": i, "phase": "train", "kind": "episode", "key": f"walk-{i}"} for i in range(100)]
    found = other_run(run, rows)
    assert "88 more" in found.text
    for key in ("walk-0", "walk-99"):
        assert key in found.text


# --- untrusted text


@pytest.mark.parametrize("where", ["answer", "prompt", "problem", "key", "teacher_prompts", "teacher name", "config",
                                   "metric name", "summary", "failure", "run name"])  # fmt: skip
def test_text_of_models_and_data_is_inert_wherever_it_stands(run, where):
    before = page(build_report(run))
    samples, metrics, config = sample_rows(), metric_rows(), json.loads(json.dumps(CONFIG))
    utf8 = NASTY.replace("\ud800", "").replace("\x00", "").replace("\x1b", "")
    match where:
        case "teacher_prompts":
            samples[-1]["teacher_prompts"] = {"teacher": NASTY}
        case "teacher name":
            samples[-1]["teacher_prompts"] = {NASTY: "text"}
        case "config":
            config["about"]["formula"] = config["recipe"]["name"] = utf8
            config["recipe"]['"><script>'] = utf8
        case "metric name":
            metrics[1] |= {NASTY: 1.0, f"divergence/{NASTY}/x": 1.0, "terms": {NASTY: 1.0, "b": 2.0}}
        case "summary":
            (run / "summary.json").write_text(json.dumps({NASTY: NASTY}))
        case "failure":
            (run / "summary.json").unlink()
            (run / "failed").mkdir()
            (run / "failed" / "step-3.json").write_text(json.dumps({"step": NASTY, "reason": NASTY}))
        case "run name":
            run = run.rename(run.with_name("<script>alert(1)<img src=x>"[:20]))
        case key:
            for row in samples:
                row[key] = NASTY
    (run / "samples.jsonl").write_text(lines(samples))
    (run / "metrics.jsonl").write_text(lines(metrics))
    (run / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    path = build_report(run)
    found = page(path)
    assert "alert(" in found.text or "script" in found.text
    assert len(found.named("script")) == len(before.named("script")) == 3
    assert not found.named("img")
    assert not [a for _, a in found.found if any(name.startswith("on") for name in a)]
    assert not set(path.read_text()) & set("\u202e\u2066\x1b\x00\ud800")
    assert "49" not in found.text.partition("{{ 7")[0][-3:]


def test_hidden_characters_are_shown_as_escapes():
    assert visible("a\u202eb\x1b\x00\u200b\ud800\U000e0041\r") == (
        r"a\u{202e}b\u{1b}\u{0}\u{200b}\u{d800}\u{e0041}\u{d}"
    )


@pytest.mark.parametrize("text", ["plain\n\ttext", "模型 سلام é", "👩\u200d🔬", "می\u200cخواهم"])
def test_ordinary_text_of_any_script_is_left_alone(text):
    assert visible(text) == text


def test_a_long_text_is_folded_and_an_endless_one_cut_with_a_word():
    assert "<details" not in block("short")
    folded = block("word " * 300)
    assert folded.startswith("<details")
    assert "(1,500 characters)" in folded
    endless = block("x" * 50_000)
    assert len(endless) < 25_000
    assert "30,000 more characters" in endless


def test_an_empty_text_says_so():
    assert "(nothing)" in block("")


# --- honest about what is missing


def test_a_run_that_still_goes_on_is_said_to(run):
    (run / "summary.json").unlink()
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 41, "lo')
    shown = page(build_report(run)).text
    assert "still going on, or interrupted after step 40" in shown
    assert "No summary yet" in shown
    assert "are no rows" not in shown


def test_a_headline_that_is_no_number_neither_rose_nor_fell(run):
    rows = (run / "metrics.jsonl").read_text().splitlines()
    broken = json.dumps({"step": 40, "eval/headline": "NaN"})
    (run / "metrics.jsonl").write_text("\n".join([*rows, broken]) + "\n")
    shown = page(build_report(run)).text
    assert "is not finite after 40 steps: the run has diverged" in shown
    assert "to nan" not in shown


def test_a_run_stopped_by_nan_names_its_reason(run):
    (run / "summary.json").unlink()
    (run / "failed").mkdir()
    (run / "failed" / "step-9.json").write_text('{"step": 9, "reason": "older"}')
    (run / "failed" / "step-37.json").write_text('{"step": 37, "reason": "loss is NaN"}')
    assert "Stopped at step 37: loss is NaN." in page(build_report(run)).text


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("metrics.jsonl", "No step has been measured yet."),
        ("samples.jsonl", "No problem was answered both before and after training"),
        ("config.toml", "There is no config.toml"),
    ],
)
def test_a_missing_file_becomes_a_sentence(run, missing, sentence):
    (run / missing).unlink()
    assert sentence in page(build_report(run)).text


def test_a_run_that_did_not_write_the_papers_values_is_not_said_to_have_them(run):
    (run / "config.toml").write_text(tomli_w.dumps({k: v for k, v in CONFIG.items() if k != "paper"}))
    shown = page(build_report(run)).text
    assert "differences from them are not known" in shown
    assert "Every setting is that of the method's first preset" not in shown


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_broken_rows_are_counted_and_the_rest_shown(run, name):
    with (run / name).open("ab") as stream:
        stream.write(b'{\n[]\n{"loss": 1}\n{"step": "NaN"}\nnull\n\xff\n' + b"[" * 100_000 + b"\n")
    shown = page(build_report(run)).text
    assert f"{name}: 7 of " in shown
    assert "0.310 ± 0.020 → 0.910 ± 0.010" in shown


@pytest.mark.parametrize("name", ["config.toml", "summary.json"])
def test_a_broken_file_becomes_a_sentence(run, name):
    (run / name).write_bytes(b"\xff{= nonsense")
    assert f"{name} could not be read" in page(build_report(run)).text


def test_a_folder_without_a_run_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        build_report(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        build_report(tmp_path / "absent")
    with pytest.raises(UserError, match="no run folder given"):
        build_report([])


def test_an_unwritable_page_is_a_users_mistake(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        build_report(run, tmp_path / "file" / "page.html")


def test_rows_of_wrong_kinds_do_not_break_the_page(run):
    strange = [{"step": 41, "loss": None, "terms": 3, "eval/accuracy": "high", "entropy/student": [1], "x": 1e308},
               {"step": 42, "loss": 10**400, "terms": {"a": {"b": {"c": {"d": {"e": 1}}}}}, "x": -1e308}]  # fmt: skip
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(lines(strange))
    odd = [{"step": 1, "phase": "train", "answer": 3, "reward": "good", "teacher_prompts": "x", "length": {}},
           {"step": 1, "phase": [], "key": {}},
           {"step": 1, "phase": "before"}, {"step": 1, "phase": "after"}]  # fmt: skip
    with (run / "samples.jsonl").open("a") as stream:
        stream.write(lines(odd))
    assert "ungraded" in page(build_report(run)).text


def test_alarms_of_the_collapse_watch_stand_at_the_top(run):
    alarm = {
        "name": "length dies",
        "since": 12,
        "seen": "mean length 3, at first 31",
        "advice": "look (card 04)",
    }
    rows = metric_rows()
    rows[20]["alarms"] = [alarm, "nonsense", {"name": NASTY}]
    rows[25]["alarms"] = [alarm | {"since": 24}]
    (run / "metrics.jsonl").write_text(lines(rows))
    found = page(build_report(run))
    shown = " ".join(found.text.split())
    assert "length dies since step 24: mean length 3, at first 31. look (card 04)" in shown
    assert "since step 12" not in shown
    assert len(found.named("script")) == 3


# --- before and after


def test_answers_are_paired_by_problem_and_losses_stand_first():
    pairs = paired(list(map(sample, sample_rows())))
    assert [(p.before.answer, p.after.answer, p.change) for p in pairs] == [
        ("right b", "wrong b", "became wrong"),
        ("wrong a", "right a", "became right"),
    ]


def test_a_problem_answered_on_one_side_only_is_no_pair():
    assert paired([sample(row) for row in sample_rows() if row["phase"] != "after"]) == []


# --- settings


def test_settings_that_differ_from_the_paper_are_listed_with_both_values():
    assert differing_from_paper(CONFIG) == [
        ("beta", 1.0, 0.0),
        ("rollouts.top_k", 0, 20),
        ("clip_entry", None, 0.05),
    ]


def test_a_setting_is_shown_with_every_digit():
    assert exact(0.99999) == "0.99999"
    assert exact(1e-6) == "1e-06"
    assert exact(None) == "none"


# --- token by token


@pytest.fixture
def looked(tmp_path) -> Path:
    return write_run(tmp_path / "looked", steps=3, rollouts=4, tokens=6)


def numbers(coded: str, width: str = "<u2") -> np.ndarray:
    return np.frombuffer(base64.b64decode(coded), dtype=width)


def unpacked(packed: list) -> np.ndarray:
    low, high, coded = packed
    places = numbers(coded).astype(float)
    return np.where(places == explorer.MISSING, np.nan, low + places / explorer.STEPS * (high - low))


def test_the_columns_on_the_page_are_those_of_the_run(looked):
    found, written = explored(build_report(looked)), load_file(looked / "tokens" / "step-2.safetensors")
    second = [one for one in found["rollouts"] if one["step"] == 2][1]
    own = slice(6, 12)
    expected = {
        "divergence/teacher": written["divergence/teacher"][own],
        "weight/distill": written["weight/distill"][own],
        "surprisal/student": -written["log_prob/student"][own],
        "log_ratio/teacher": (written["log_prob/teacher"] - written["log_prob/student"])[own],
    }
    for name, column in expected.items():
        np.testing.assert_allclose(unpacked(second["columns"][name]), column, atol=2e-4)
    assert second["divergence"] == pytest.approx(written["divergence/teacher"][own].mean(), rel=1e-4)
    words, surprisals = second["tops"]["teacher"]
    assert [found["words"][i] for i in numbers(words)] == [
        f" w{i}" for i in written["top_ids/teacher"][own].ravel()
    ]
    shares = np.exp(-numbers(surprisals).astype(float) / explorer.PER_NAT)
    np.testing.assert_allclose(shares, written["top_probs/teacher"][own].ravel(), rtol=1e-3)
    assert [found["words"][i] for i in numbers(second["pieces"])] == [f" w{i}" for i in written["ids"][own]]


def test_missing_values_stay_missing_and_a_constant_is_one_number():
    assert explorer.packed_column(np.array([np.nan, np.nan])) is None
    assert explorer.packed_column(np.array([0.25, 0.25])) == 0.25
    np.testing.assert_allclose(
        unpacked(explorer.packed_column(np.array([1.0, np.nan, 3.0, -np.inf, 2.0]))),
        [1, np.nan, 3, np.nan, 2],
        atol=1e-4,
    )
    np.testing.assert_allclose(unpacked(explorer.packed_column(np.array([0.5, np.nan]))), [0.5, np.nan])


def test_a_tokens_route_names_the_terms_that_select_it():
    packed = explorer.Packed()
    weights = {"weight/a": np.array([1.0, 0.0, 0.5, 0.0]), "weight/b": np.array([0.0, 2.0, 1.0, 0.0])}
    routes = packed.route(weights)["route"]
    assert [list(packed.routes)[int(i)] for i in routes] == ["a", "b", "a + b", "no term"]
    assert packed.route({"weight/a": np.array([np.nan, np.nan])}) == {}


def test_full_color_is_not_set_by_one_outlier():
    values = np.append(np.ones(999), 1e6)
    assert explorer.described("divergence/teacher", values)["scale"] == 1.0
    assert explorer.described("loss/policy", np.array([1.0, -1.0]))["kind"] == "signed"
    assert explorer.described("loss/distill", np.array([1.0, -1e-8]))["kind"] == "amount"


def test_too_many_rollouts_are_thinned_evenly_with_a_word(tmp_path, monkeypatch):
    many = write_run(tmp_path / "many", steps=32, rollouts=2, tokens=6)
    monkeypatch.setattr(explorer, "MOST_BYTES", 40_000)
    path = build_report(many)
    steps = sorted({one["step"] for one in explored(path)["rollouts"]})
    assert 4 < len(steps) < 32
    assert steps[-1] == 32
    gaps = np.diff(steps)
    assert gaps.max() <= 2 * gaps.min()
    assert f"{64 - 2 * len(steps)} more rollouts" in page(path).text


@pytest.mark.parametrize("count", [1, 2, 7, 64, 1000])
def test_every_rollout_has_its_turn_and_the_last_is_first(count):
    order = explorer.spread(count)
    assert order[0] == count - 1
    assert sorted(order) == list(range(count))


def test_no_rollouts_at_all_are_no_error(run):
    (run / "samples.jsonl").unlink()
    assert "No rollouts were written down." in page(build_report(run)).text


@pytest.mark.parametrize(
    "damage",
    [
        lambda texts, tensors: texts.update(lengths=[6, 6, 6]),
        lambda texts, tensors: texts.update(pieces=[["a"]] * 4),
        lambda texts, tensors: texts.pop("vocabulary"),
        lambda texts, tensors: texts.update(vocabulary=[1, 2]),
        lambda texts, tensors: tensors.update(ids=np.zeros(5, np.int32)),
        lambda texts, tensors: tensors.update({"divergence/teacher": np.zeros((24, 2), np.float32)}),
        lambda texts, tensors: tensors.update({"top_probs/teacher": np.zeros((24, 2), np.float32)}),
        lambda texts, tensors: tensors.pop("top_probs/teacher"),
    ],
)
def test_columns_that_do_not_fit_are_left_out_with_a_word(looked, damage):
    path = looked / "tokens" / "step-2"
    texts, tensors = (
        json.loads(path.with_suffix(".json").read_text()),
        load_file(path.with_suffix(".safetensors")),
    )
    damage(texts, tensors)
    path.with_suffix(".json").write_text(json.dumps(texts))
    save_file(tensors, path.with_suffix(".safetensors"))
    report = build_report(looked)
    found = explored(report)
    bare = [one["step"] for one in found["rollouts"] if "pieces" not in one]
    assert bare == [2] * 4
    assert "those of step 2 could not be read" in page(report).text


@pytest.mark.parametrize("name", ["step-2.json", "step-2.safetensors"])
def test_a_broken_file_of_columns_costs_only_its_own_step(looked, name):
    (looked / "tokens" / name).write_bytes(b"\xff{ nonsense")
    report = build_report(looked)
    assert "those of step 2 could not be read" in page(report).text
    assert [one["step"] for one in explored(report)["rollouts"] if "pieces" not in one] == [2] * 4


def test_a_row_that_is_in_no_look_is_shown_without_columns(looked):
    rows = [json.loads(line) for line in (looked / "samples.jsonl").read_text().splitlines()]
    for row, place in zip(rows, (99, -1, "2", None), strict=False):
        row["row"] = place
    (looked / "samples.jsonl").write_text(lines(rows))
    assert ["pieces" in one for one in explored(build_report(looked))["rollouts"]] == [False] * 4 + [True] * 8


def test_an_endless_token_is_cut_with_a_word(tmp_path):
    run = write_run(tmp_path / "run", steps=1, rollouts=1, tokens=3, word=lambda i: "y" * 100_000)
    path = build_report(run)
    assert "99,000 more characters" in explored(path)["words"][0]
    assert path.stat().st_size < 250_000


# --- curves


def titles(charts: list[Chart]) -> dict[str, list[str]]:
    return {chart.title: [series.label for series in chart.series] for chart in charts}


def test_metrics_are_grouped_into_the_charts_every_run_shows():
    found = titles(main_charts(columns(metric_rows())))
    assert found["Held-out accuracy"] == ["held-out accuracy", "pass@4"]
    assert found["Divergence from teacher, by token class"] == ["all tokens", "style", "content"]
    assert found["Time by phase"] == ["sample", "update"]
    assert "Terms of the loss" not in found


def test_divergences_without_a_teachers_name_share_a_chart():
    found = columns([{"step": 1, "divergence/all": 0.3, "divergence/style": 0.9}])
    assert titles(main_charts(found)) == {"Divergence": ["all", "style"]}


def test_each_teacher_has_a_divergence_chart():
    row = {
        "step": 1,
        "divergence/a": 1,
        "divergence/a/style": 1,
        "divergence/ab": 1,
        "divergence/ab/style": 1,
    }
    assert titles(main_charts(columns([row]))) == {
        "Divergence from a, by token class": ["all tokens", "style"],
        "Divergence from ab, by token class": ["all tokens", "style"],
    }


def test_several_terms_of_a_loss_have_a_chart():
    assert titles(main_charts(columns([{"step": 1, "terms": {"a": 1.0, "b": 2.0}}]))) == {
        "Terms of the loss": ["a", "b"]
    }


def test_a_metric_nobody_foresaw_is_shown_too():
    found = columns([{"step": 1, "routed/right": 0.2, "routed/wrong": 0.8, "lr": 1e-4, "loss": 1.0}])
    assert titles(other_charts(found)) == {"routed": ["right", "wrong"], "lr": ["lr"]}


def test_standard_errors_belong_to_their_accuracy():
    accuracy = main_charts(columns(metric_rows()))[0].series[0]
    assert accuracy.points == ((0, 0.31), (40, 0.91))
    assert accuracy.errors == (0.02, 0.01)


def test_a_long_curve_is_thinned_but_keeps_its_extremes_and_its_end():
    rows = [{"step": step, "loss": math.sin(step / 900)} for step in range(20_000)]
    rows[12_345]["loss"], rows[777]["loss"] = 50.0, -50.0
    (series,) = main_charts(columns(rows))[0].series
    assert len(series.points) < 1000
    assert {(12_345, 50.0), (777, -50.0)} <= set(series.points)
    assert series.points[-1][0] == 19_999
    assert series.points == tuple(sorted(series.points))


def test_too_many_lines_for_one_chart_are_cut_with_a_word():
    chart = main_charts(columns([{"step": 1} | {f"entropy/{i}": i for i in range(12)}]))[0]
    assert len(chart.series) == 8
    assert chart.note == "4 more are in metrics.jsonl."


def test_every_metric_that_was_written_is_in_some_chart():
    charts = other_charts(columns([{"step": 1} | {f"class/{i}": i for i in range(12)}]))
    assert [len(chart.series) for chart in charts] == [8, 4]
    assert len({series.label for chart in charts for series in chart.series}) == 12


# --- drawing


def chart_of(*points: tuple[float, float], errors: tuple[float, ...] = ()) -> Chart:
    return Chart("t", "u", (Series("s", points, errors),))


def test_a_straight_line_is_drawn_straight_from_corner_to_corner():
    (line,) = draw(chart_of((0, 0), (5, 0.5), (10, 1.0))).lines
    assert line.path == "M54 138L202 74L350 10"


def test_the_band_reaches_one_standard_error_to_both_sides():
    drawing = draw(chart_of((0, 0.5), (10, 0.5), errors=(0.1, 0.25)))
    place = {label: y for y, label in drawing.y_ticks}
    heights = [float(y) for y in re.findall(r" ([\d.]+)", drawing.lines[0].band)]
    unit = (place["0"] - place["0.4"]) / 0.4
    assert heights == pytest.approx([place["0"] - unit * y for y in (0.6, 0.75, 0.25, 0.4)], abs=0.11)
    assert drawing.lines[0].value == "0.5 ± 0.2" or drawing.lines[0].value == "0.5 ± 0.3"


def test_a_value_that_is_not_finite_breaks_the_line_and_is_counted():
    drawing = draw(chart_of((0, 1), (1, math.nan), (2, 1), (3, math.inf), (4, 1)))
    assert drawing.lines[0].path.count("M") == 3
    assert drawing.not_finite == 2
    assert "nan" not in drawing.lines[0].path


@pytest.mark.parametrize(
    "points", [(), ((3, 0),), ((3, 5),), ((0, math.nan),), ((0, -1e308), (1, 1e308)), ((0, 5e-324),)]
)
def test_any_values_can_be_drawn(points):
    drawing = draw(chart_of(*points))
    numbers = re.findall(r"[-\d.e]+", drawing.lines[0].path)
    assert all(0 <= float(n) <= 460 for n in numbers)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 240, [0, 50, 100, 150, 200, 250]),
        (-0.3, 0.3, [-0.4, -0.2, 0, 0.2, 0.4]),
    ],
)
def test_ticks_are_round_and_span_the_values(low, high, expected):
    assert ticks([low, high]) == pytest.approx(expected)


def test_hovering_tells_an_older_value_by_its_step():
    rows = [
        {"step": 1, "length/mean": 30.0},
        {"step": 2, "length/mean": 31.0},
        {"step": 1, "eval/length": 28.0},
    ]
    hover = json.loads(draw(main_charts(columns(rows))[0]).hover)
    assert hover["x"] == ["1", "2"]
    assert hover["values"] == [["30", "31"], ["28", "28 (at 1)"]]


# --- numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(24800, "24,800"), (0.31249, "0.312"), (3e-6, "3e-06"), (-0.5, "−0.5"), (math.nan, "NaN"), (math.inf, "∞"),
     (-math.inf, "−∞"), (None, "none"), (True, "True"), ("text", "text"), (5231.7, "5,232"), (0.0, "0")],
)  # fmt: skip
def test_numbers_are_written_for_people(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(25_000, "25k"), (1.5e6, "1.5M"), (0.25, "0.25"), (-2e9, "−2G"), (3e-4, "3e−4"), (0, "0")],
)
def test_axis_labels_are_short(value, text):
    assert short(value) == text


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_numbers_written_as_strings_are_read_back(value):
    assert repr(as_number(value)) == repr(float(value))


@pytest.mark.parametrize("value", ["3", "high", None, True, [1], {}, 10**400])
def test_what_is_no_number_is_none(value):
    assert as_number(value) is None


# --- several runs, comparisons


def test_several_runs_share_their_charts_and_keep_their_own(run):
    other = shutil.copytree(run, run.with_name("other"))
    shown = page(build_report([run, other]))
    assert "2 runs" in shown.text
    assert len([a for a in shown.named("details") if a.get("class") == "run"]) == 2
    first = shown.named("figure")[0]["data-hover"]
    assert json.loads(first)["values"] == [["0.31 ± 0.02", "0.91 ± 0.01"]] * 2


def test_settings_in_which_runs_differ_stand_side_by_side(run):
    other = shutil.copytree(run, run.with_name("other"))
    changed = CONFIG | {"run": {"task": "table", "seed": 4}, "recipe": {"name": "opsd", "preset": "arena"}}
    (other / "config.toml").write_text(tomli_w.dumps(changed))
    assert differing_settings([read_run(run), read_run(other)]) == [
        ("recipe.beta", [1.0, None]),
        ("recipe.rollouts.top_k", [0, None]),
        ("recipe.rollouts.max_tokens", [64, None]),
        ("run.seed", [3, 4]),
    ]


def test_several_runs_share_a_chart_of_every_number_they_both_have(run):
    own = columns(metric_rows())
    charts = other_shared_charts([("a", own), ("b", own), ("c", {"lr": own["lr"], "only/here": own["lr"]})])
    found = titles(charts)
    assert found["lr"] == ["a", "b", "c"]
    assert found["loss"] == ["a", "b"]
    assert "only/here" not in found
    assert "eval/headline" not in found
    assert "eval/accuracy" not in found


def test_runs_of_one_name_are_told_apart(run, tmp_path):
    twin = shutil.copytree(run, tmp_path / "elsewhere" / run.name)
    shown = page(build_report([run, twin])).text
    assert "opsd-table (1)" in shown
    assert "opsd-table (2)" in shown


def one_run(seed: int, accuracies: list[float], tokens: int) -> dict:
    points = [{"step": 10 * i, "spent": tokens * i, "headline": a} for i, a in enumerate(accuracies)]
    return {"seed": seed, "points": points, "summary": {}}


SHARED_RESULT = {
    "start": 0.3,
    "headline_se": 0.05,
    "steps": 20,
    "spent": 220.0,
    "training_seconds": 9.6,
}
OPSD = {"runs": [one_run(0, [0.3, 0.8, 0.9], 100), one_run(1, [0.3, 0.6, 0.8], 120)], "headline": 0.85}
SFT = {"runs": [one_run(0, [0.3, 0.0], 0)], "headline": 0.0, "headline_se": math.nan, "spent": 0}
RESULTS = {
    "task": "table",
    "model": "arena table",
    "equal": "tokens",
    "seeds": 2,
    "command": f"compare {NASTY}",
    "versions": {"torch": "2.13"},
    "headline": "held-out accuracy",
    "unit": "tokens",
    "recipes": {"opsd": SHARED_RESULT | OPSD, "sft": SHARED_RESULT | SFT},
}


def test_a_comparison_draws_each_seed_thin_and_their_mean_thick():
    by_tokens = comparison_charts(RESULTS["recipes"])[0]
    assert [(s.label, s.faint) for s in by_tokens.series] == [
        ("opsd, seed 0", True),
        ("opsd, seed 1", True),
        ("opsd", False),
    ]
    assert by_tokens.series[2].points == ((0, 0.3), (110, pytest.approx(0.7)), (220, pytest.approx(0.85)))


def test_a_recipe_that_generates_no_tokens_stands_in_the_plot_by_steps_only():
    by_tokens, by_step = comparison_charts(RESULTS["recipes"])
    assert by_tokens.note.endswith("sft.")
    assert [s.label for s in by_step.series if not s.faint] == ["opsd", "sft"]


def test_a_comparison_page_tells_mean_and_standard_error_and_a_single_seed(tmp_path):
    shown = page(comparison_page(RESULTS, tmp_path / "compare.html"))
    assert "0.850 ± 0.050" in shown.text
    assert re.search(r"0\.000\s+\(one seed\)", shown.text)
    assert not shown.named("img")
