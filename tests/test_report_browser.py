"""The page in a real browser: what models and data wrote stays inert, and everything that can be worked works."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from episode_run import write_episodes
from selfteach.report import build_report, comparison_page, read_results
from synthetic_run import write_run

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed"),
]

HOSTILE = (
    "<script>window.ran = 1</script>",
    "</script><script>window.ran = 2</script>",
    "<!--<script>window.ran = 3",
    "<img src=x onerror='window.ran = 4'>",
    "<svg onload=window.ran=5><style>*{display:none}</style>",
    "\"' onmouseover=window.ran=6 x='",
    "javascript:window.ran=7",
    "<iframe src='http://127.0.0.1:9/'></iframe><link rel=stylesheet href='http://127.0.0.1:9/x.css'>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'><base href='http://127.0.0.1:9/'>",
    "{{ 7 * 7 }} ${7 * 7} {% raw %}",
    "\u202eright to left\u2066 \u200b\ufeff",
    "\x00\x07\x1b[31m\x7f\x85\u2028\u2029",
    "\ud800 half a pair \udfff",
    b"\xff\xfe\x80 not UTF-8".decode("utf-8", errors="surrogateescape"),
    "\U000e0041\U0010ffff\ufffe",
    "x" * 100_000,
    "__proto__",
    "]]>--></textarea></title></template></noscript>",
)


@dataclass
class Opened:
    """A page in the browser, and what it did unasked: requests but its own file, console lines, errors."""

    page: Any
    seconds: float = 0.0
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def launched() -> Iterator[Any]:
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (the dev extra has it)"
    )
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=0)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, path: Path, **context: Any) -> Iterator[Opened]:
    """The page of a report, when its token view is drawn; ``seconds`` is how long that took."""
    with browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context}) as own:
        own.set_default_timeout(0)  # a loaded machine may take its time
        page = own.new_page()
        shown = Opened(page)
        page.on("request", lambda request: shown.requests.append(request.url))
        page.on("console", lambda line: shown.complaints.append(line.text))
        page.on("pageerror", lambda error: shown.complaints.append(str(error)))
        page.on("dialog", lambda dialog: shown.complaints.append(dialog.message))
        began = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_function("document.getElementById('explorer')?.hidden === false")
        page.evaluate("new Promise(requestAnimationFrame)")
        shown.seconds = time.perf_counter() - began
        assert shown.requests == [path.as_uri()]
        shown.requests.clear()
        yield shown


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as one:
        yield one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", steps=6, rollouts=4, tokens=24)


@pytest.fixture(scope="module")
def page_path(folder: Path) -> Path:
    return build_report(folder)


@pytest.fixture
def shown(browser: Any, page_path: Path) -> Iterator[Opened]:
    with opened(browser, page_path) as one:
        yield one
        assert one.complaints == []
        assert one.requests == []


def text_of(shown: Opened, selector: str) -> str:
    return shown.page.locator(selector).first.inner_text()


# --- hostile text


def hostile_run(folder: Path) -> Path:
    """A run in which every text that a model, a data file or a config can fill is hostile."""
    write_run(folder, steps=2, rollouts=4, tokens=len(HOSTILE), word=lambda i: HOSTILE[i % len(HOSTILE)])
    for path in (folder / "tokens").glob("*.json"):
        texts = json.loads(path.read_text())
        texts["pieces"] = [list(HOSTILE) for _ in texts["pieces"]]
        path.write_text(json.dumps(texts))
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        words = "".join(HOSTILE)
        row |= dict.fromkeys(("problem", "prompt", "answer"), words)
        row["key"] = HOSTILE[row["row"] % len(HOSTILE)]
        row["teacher_prompts"] = {HOSTILE[i % len(HOSTILE)]: words, "__proto__": words, "constructor": ""}
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = [{"step": 1} | {text[:2000]: 1.0 for text in HOSTILE} | {f"divergence/{HOSTILE[0]}/x": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    (folder / "summary.json").write_text(json.dumps({text[:2000]: text for text in HOSTILE}))
    return folder


def test_hostile_text_runs_nothing_asks_for_nothing_and_is_all_there(browser: Any, tmp_path: Path) -> None:
    path = build_report(hostile_run(tmp_path / HOSTILE[0].replace("/", "")))
    with opened(browser, path) as shown:
        page = shown.page
        tokens = page.locator(".viewer .token")
        assert tokens.count() == len(HOSTILE)
        for i in range(len(HOSTILE)):
            tokens.nth(i).hover(position={"x": 2, "y": 2}, force=True)
            page.locator(".tokens").first.press("ArrowRight")
        page.get_by_label("Search").fill("<script>")
        assert text_of(shown, ".count").startswith("8 of 8")
        page.locator(".entry").nth(3).click()
        for column in page.locator("[name=column] option").all():
            page.locator("[name=column]").select_option(column.get_attribute("value"))
        for fold in page.locator("details").all():
            fold.evaluate("fold => { fold.open = true; }")
        assert page.evaluate("window.ran") is None
        assert (
            page.locator("iframe, img, svg[onload], link, base, body script:not([type]) ~ title").count() == 0
        )
        assert page.locator("script").count() == 3
        whole = page.evaluate("document.body.textContent")
        assert "<script>window.ran = 1</script>" in text_of(shown, ".tokens")
        assert "{{ 7 * 7 }}" in whole
        assert r"\u{202e}right to left" in text_of(shown, ".tokens")
        assert "99,000 more characters" in text_of(shown, ".tokens")
        assert not set(whole) & set("\u202e\u2066\u200b\x00\x1b\ud800\ufffe")
        assert shown.requests == []
        assert shown.complaints == []


def test_the_content_security_policy_stops_a_script_that_is_not_ours(
    browser: Any, page_path: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(page_path.read_text().replace("<footer>", "<script>window.ran = 1</script><footer>"))
    with opened(browser, broken) as shown:
        assert shown.page.evaluate("window.ran") is None
        assert any("Content Security Policy" in line for line in shown.complaints)


def test_a_run_without_token_columns_shows_its_texts(browser: Any, folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(folder, tmp_path / "bare")
    shutil.rmtree(bare / "tokens")
    with opened(browser, build_report(bare)) as shown:
        assert "no token columns" in text_of(shown, ".detail")
        assert " w" in text_of(shown, ".tokens")
        shown.page.locator(".tokens").press("ArrowRight")
        shown.page.locator(".entry").nth(2).click()
        assert shown.complaints == []


# --- everything that can be worked


def test_pointing_at_a_token_shows_both_sides_and_a_click_holds_it(shown: Opened) -> None:
    tokens = shown.page.locator(".viewer .token")
    tokens.nth(3).hover()
    assert "token 4 of 24" in text_of(shown, ".detail")
    assert shown.page.locator(".top h4").all_inner_texts() == ["student", "teacher"]
    tokens.nth(5).click()
    tokens.nth(8).hover()
    assert "token 6 of 24" in text_of(shown, ".detail")
    tokens.nth(5).click()
    tokens.nth(8).hover()
    assert "token 9 of 24" in text_of(shown, ".detail")


def test_the_numbers_beside_a_token_are_those_that_were_written(shown: Opened, folder: Path) -> None:
    from safetensors.numpy import load_file

    shown.page.locator("[name=phase]").select_option("probe")
    shown.page.locator(".entry").first.click()
    shown.page.locator(".viewer .token").nth(7).hover()
    step, key = text_of(shown, ".steps output"), text_of(shown, ".viewer .key")
    place = int(key.removeprefix("probe-")) * 24 + 7
    written = load_file(folder / "tokens" / f"step-{step}.safetensors")
    rows = dict(
        (
            row.locator("td").nth(0).inner_text(),
            float(row.locator("td").nth(1).inner_text().replace("−", "-")),
        )
        for row in shown.page.locator(".values tr").all()
        if row.locator("td").nth(0).inner_text() != "which terms select it"
    )
    assert rows["divergence from teacher"] == pytest.approx(written["divergence/teacher"][place], rel=0.02)
    ratio = written["log_prob/teacher"][place] - written["log_prob/student"][place]
    assert rows["log-ratio, teacher over student"] == pytest.approx(ratio, rel=0.02, abs=1e-3)
    shares = [
        float(one.rstrip(" %"))
        for one in shown.page.locator(".top").first.locator(".share").all_inner_texts()
    ]
    assert shares[:5] == pytest.approx(
        (100 * written["top_probs/student"][place]).tolist(), rel=0.02, abs=0.06
    )


def test_the_slider_follows_one_prompt_through_training(shown: Opened) -> None:
    slider = shown.page.locator(".steps input").first
    assert text_of(shown, ".steps output") == "6"
    before = text_of(shown, ".tokens")
    slider.focus()
    slider.press("ArrowLeft")
    assert text_of(shown, ".steps output") == "5"
    assert "step 5" in text_of(shown, ".viewer .where")
    assert text_of(shown, ".tokens") != before
    slider.press("Home")
    assert text_of(shown, ".steps output") == "1"


def test_the_slider_tells_several_answers_of_one_step_apart(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=2, rollouts=3, tokens=4, phases=("train",))
    rows = [json.loads(line) | {"key": "same", "problem": "same"} for line in (run / "samples.jsonl").open()]
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with opened(browser, build_report(run)) as shown:
        assert text_of(shown, ".steps output").startswith("2, ")
        shown.page.locator(".steps input").press("Home")
        assert text_of(shown, ".steps output") == "1, 1 of 3"
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    with opened(browser, build_report(run)) as shown:
        assert text_of(shown, ".steps").startswith("Answer")
        assert "of 3" in text_of(shown, ".steps output")


def test_search_narrows_the_list_and_sorting_orders_it(shown: Opened) -> None:
    page = shown.page
    assert text_of(shown, ".count") == "24 of 24 rollouts"
    page.get_by_label("Search").fill("TRAIN-3-2")
    assert text_of(shown, ".count") == "1 of 24 rollouts"
    assert "train-3-2" in text_of(shown, ".entry")
    page.get_by_label("Search").fill("")
    page.get_by_label("Show").select_option("train")
    page.get_by_label("Sort").select_option("wrong")
    verdicts = [one.split("\n")[0] for one in page.locator(".entry").all_inner_texts()]
    assert verdicts == sorted(verdicts, key="✗ wrong".__ne__)
    assert set(verdicts) == {"✗ wrong", "✓ right"}
    page.get_by_label("Sort").select_option("divergent")
    nats = [float(one.split(" nats")[0].split(" ")[-1]) for one in page.locator(".entry").all_inner_texts()]
    assert nats == sorted(nats, reverse=True)


def test_the_keyboard_alone_reaches_list_tokens_and_prompts(shown: Opened) -> None:
    page = shown.page
    page.locator(".list").focus()
    page.keyboard.press("Home")
    first = text_of(shown, ".viewer .key")
    page.keyboard.press("ArrowDown")
    assert text_of(shown, ".viewer .key") != first
    assert page.locator(".list").get_attribute("aria-activedescendant") == "rollout-1"
    page.locator(".tokens").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert "token 2 of 24" in text_of(shown, ".detail")
    page.locator(".readers summary").nth(1).focus()
    page.keyboard.press("Enter")
    assert "The solution" in text_of(shown, ".readers")


def test_another_column_shades_otherwise_and_routes_have_names(shown: Opened) -> None:
    page = shown.page

    def shades() -> list[str]:
        return page.locator(".viewer .token").evaluate_all(
            "all => all.map(one => getComputedStyle(one).backgroundColor)"
        )

    by_divergence = shades()
    assert len(set(by_divergence)) > 5
    page.get_by_label("Shade by").select_option("entropy/student")
    assert shades() != by_divergence
    page.get_by_label("Shade by").select_option("log_ratio/teacher")
    assert "−" in text_of(shown, ".scale")
    assert page.locator(".viewer .token.below").count() > 0
    page.get_by_label("Shade by").select_option("route")
    assert "distill" in text_of(shown, ".scale")


def test_a_rollout_can_be_kept_beside_another(shown: Opened) -> None:
    page = shown.page
    page.get_by_role("button", name="Keep beside").click()
    assert page.locator(".viewer").count() == 2
    page.get_by_label("Show").select_option("train")
    page.locator(".entry").first.click()
    keys = page.locator(".viewer .key").all_inner_texts()
    assert keys[0].startswith("probe-")
    assert keys[1].startswith("train-")
    page.get_by_role("button", name="Close").first.click()
    assert page.locator(".viewer .key").all_inner_texts() == keys[1:]


def test_of_two_runs_the_same_probe_stands_side_by_side(browser: Any, folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    with opened(browser, build_report([folder, other], tmp_path / "both.html")) as shown:
        keys = shown.page.locator(".viewer .key").all_inner_texts()
        assert len(keys) == 2
        assert keys[0] == keys[1]
        assert ["other" in where for where in shown.page.locator(".viewer .where").all_inner_texts()] == [
            False,
            True,
        ]
        shown.page.locator("[name=run]").select_option("1")
        assert text_of(shown, ".count") == "24 of 48 rollouts"
        assert shown.complaints == []


def test_the_curves_still_answer_the_pointer(shown: Opened) -> None:
    figure = shown.page.locator("figure").first
    at_rest = figure.locator("[data-at]").inner_text()
    figure.locator("svg").hover(position={"x": 60, "y": 60})
    assert figure.locator("[data-at]").inner_text() != at_rest


def test_outcome_and_step_narrow_the_list_and_the_reason_stands_beside_a_rollout(
    browser: Any, folder: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(folder, tmp_path / "run")
    rows = [json.loads(line) for line in (run / "samples.jsonl").open()]
    for i, row in enumerate(rows):
        told = {"outcome": "no answer", "reward": 0.0} if i % 4 == 0 else {"outcome": "right", "reward": 1.0}
        row |= {"reference": "<b>42</b>", "feedback": "look again"} | told
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with opened(browser, build_report(run)) as shown:
        page = shown.page
        page.locator("[name=outcome]").select_option("no answer")
        assert text_of(shown, ".count") == "6 of 24 rollouts"
        page.locator("[name=step]").select_option("3")
        assert text_of(shown, ".count") == "1 of 24 rollouts"
        page.locator(".entry").first.click()
        assert text_of(shown, ".viewer .verdict") == "✗ no answer"
        reason = text_of(shown, ".viewer .why")
        assert reason.startswith("reference: <b>42</b> · read out: nothing · No final answer was found")
        assert reason.endswith("look again")
        assert shown.complaints == []


def test_pairs_are_narrowed_by_outcome_and_words(browser: Any, folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder, tmp_path / "run")
    with (run / "samples.jsonl").open("a") as stream:
        for i in range(4):
            for phase, step in (("before", 0), ("after", 6)):
                good = phase == "after" and i < 3
                row = {"step": step, "phase": phase, "key": f"key-{i}" + "k" * 200, "problem": f"problem {i}",
                       "answer": "x", "reward": float(good), "outcome": "right" if good else "cut off"}  # fmt: skip
                stream.write(json.dumps(row) + "\n")
    with opened(browser, build_report(run)) as shown:
        pairs = shown.page.locator(".sample:visible")
        assert pairs.count() == 4
        shown.page.locator("[data-filter=after]").select_option("right")
        assert pairs.count() == 3
        shown.page.get_by_label("Key or problem").fill("KEY-2" + "k" * 150)
        assert pairs.count() == 1
        assert text_of(shown, "[data-count]") == "1 of 4 problems"
        shown.page.locator("[data-filter=before]").select_option("cut off")
        assert pairs.count() == 1


@pytest.mark.parametrize("width", [390, 1280])
def test_endless_names_do_not_widen_the_page_and_no_letter_is_small(
    browser: Any, folder: Path, tmp_path: Path, width: int
) -> None:
    run = shutil.copytree(folder, tmp_path / ("r" * 200))
    long = "x" * 100_000
    config = {name: long for name in ("title", "source", "formula")}
    tables = {"about": config, "recipe": {"name": long, "k" * 3000: long}, "paper": {"a": long}}
    (run / "config.toml").write_text(tomli_w.dumps(tables | {"run": {"task": long, "headline": long}}))
    (run / "summary.json").write_text(json.dumps({long: long}))
    row = {
        "step": 6,
        long: 1.0,
        "eval/headline": 0.5,
        "alarms": [dict.fromkeys(("name", "since", "seen"), long)],
    }
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    told = dict.fromkeys(("key", "problem", "reference", "claim", "feedback", "answer"), long)
    with (run / "samples.jsonl").open("a") as stream:
        for step, phase in ((0, "before"), (6, "after"), (6, "train")):
            stream.write(
                json.dumps({"step": step, "phase": phase, "reward": 0.0, "outcome": "wrong"} | told) + "\n"
            )
    for page_path in (build_report(run), build_report([run, folder], tmp_path / "both.html")):
        with opened(browser, page_path, viewport={"width": width, "height": 800}) as shown:
            shown.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
            assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
            assert float(shown.page.evaluate(SMALLEST_LETTER)) >= 12
            assert shown.complaints == []


SMALLEST_LETTER = """() => {
  let least = 1000;
  for (const one of document.querySelectorAll("body *")) {
    if (![...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
    if (!one.getClientRects().length) continue;
    const drawing = one.closest("svg");
    const scale = drawing ? drawing.getBoundingClientRect().width / drawing.viewBox.baseVal.width : 1;
    least = Math.min(least, parseFloat(getComputedStyle(one).fontSize) * scale);
  }
  return least;
}"""


@pytest.mark.parametrize("width", [320, 360, 390, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_screen_in_light_and_dark(
    browser: Any, page_path: Path, width: int, scheme: str
) -> None:
    with opened(browser, page_path, viewport={"width": width, "height": 760}, color_scheme=scheme) as shown:
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
        ink, paper = shown.page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
            ".map(c => c.match(/\\d+/g).map(Number).reduce((a, b) => a + b))"
        )
        assert (ink < paper) == (scheme == "light")
        shown.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
        assert float(shown.page.evaluate(SMALLEST_LETTER)) >= 12


@pytest.mark.parametrize("name", ["methods", "arena"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_a_comparison_fits_its_screen_and_no_letter_is_small(
    browser: Any, tmp_path: Path, name: str, width: int
) -> None:
    numbers = Path(__file__).parent.parent / "results" / f"{name}.json"
    path = comparison_page(read_results(numbers), tmp_path / "page.html")
    with browser.new_context(viewport={"width": width, "height": 800}) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert float(page.evaluate(SMALLEST_LETTER)) >= 12


# --- episodes


def hostile_episode(folder: Path) -> Path:
    """Episodes in which the policy and the environment write hostile text."""
    write_episodes(folder, steps=1, turns=3, tokens=len(HOSTILE))
    for path in (folder / "tokens").glob("*.json"):
        texts = json.loads(path.read_text())
        texts["pieces"] = [[HOSTILE[i % len(HOSTILE)] for i in range(len(row))] for row in texts["pieces"]]
        path.write_text(json.dumps(texts))
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for row in rows:
        for turn in row["turns"]:
            said = [{"role": one[:100], "content": one} for one in HOSTILE]
            turn |= {"text": "".join(HOSTILE), "author": HOSTILE[0], "reply": said}
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_hostile_turns_and_replies_are_inert(browser: Any, tmp_path: Path) -> None:
    with opened(browser, build_report(hostile_episode(tmp_path / "run"))) as shown:
        page = shown.page
        page.get_by_role("button", name="Open all turns").click()
        for fold in page.locator("details").all():
            fold.evaluate("fold => { fold.open = true; }")
        page.get_by_label("Search").fill("<iframe")
        assert page.evaluate("window.ran") is None
        assert page.locator("iframe, img, svg[onload], link, base, .turn script").count() == 0
        whole = page.evaluate("document.body.textContent")
        assert "<script>window.ran = 1</script>" in text_of(shown, ".turn .reply pre")
        assert not set(whole) & set("\u202e\u2066\u200b\x00\x1b\ud800\ufffe")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert shown.complaints == []
        assert shown.requests == []


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(write_episodes(tmp_path_factory.mktemp("runs") / "run", turns=12))


def test_a_turn_is_opened_by_the_keyboard_and_holds_its_own_tokens(browser: Any, episodes: Path) -> None:
    with opened(browser, episodes) as shown:
        page = shown.page
        turns = page.locator(".viewer .turn")
        assert turns.count() == 12
        assert page.locator(".viewer .turn[open]").count() == 1
        line = turns.nth(1).locator("summary").inner_text()
        assert line.split("\n")[0] == "turn 1"
        assert "illegal" in line
        assert "reward 0.25" in line
        assert re.search(r"teacher [\d.]+ nats", line)
        if turns.nth(1).get_attribute("open") is None:
            turns.nth(1).locator("summary").focus()
            page.keyboard.press("Enter")
        assert turns.nth(1).locator(".token").count() == 6
        assert turns.nth(1).locator(".reply").inner_text() == "environment\nreply 2 1"
        assert turns.nth(1).locator(".reply .token").count() == 0
        turns.nth(1).locator("summary").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        assert "token 2 of 6 of turn 1" in text_of(shown, ".detail")
        page.keyboard.press("End")
        page.keyboard.press("ArrowRight")
        assert "token 6 of 6 of turn 1" in text_of(shown, ".detail")
        page.get_by_role("button", name="Open all turns").press("Enter")
        assert page.locator(".viewer .turn[open]").count() == 12
        page.locator(".steps input").press("Home")
        assert page.locator(".viewer .turn[open]").count() == 12
        assert text_of(shown, ".turn .reply pre") == "reply 1 0"
        page.get_by_role("button", name="Fold all turns").click()
        assert page.locator(".viewer .turn[open]").count() == 0
        page.get_by_label("Search").fill("reply 1 11")
        assert text_of(shown, ".count") == "2 of 4 rollouts"
        assert shown.complaints == []


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_known_of_a_token_stays_in_sight_however_long_the_episode(
    browser: Any, episodes: Path, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 800}
    with opened(browser, episodes, viewport=size, color_scheme=scheme) as shown:
        page = shown.page
        page.get_by_role("button", name="Open all turns").click()
        last = page.locator(".turn").nth(8).locator(".tokens")
        last.focus()
        page.keyboard.press("Home")
        page.wait_for_timeout(100)
        detail, token = (page.locator(one).bounding_box() for one in (".detail", ".token.chosen"))
        assert detail["y"] >= 0
        assert detail["y"] < 800 - 100
        below = token["y"] + token["height"] <= detail["y"] + 1
        beside = token["x"] + token["width"] <= detail["x"]
        assert 0 <= token["y"] <= 800
        assert below or beside
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(SMALL_LETTERS) == []
        assert shown.complaints == []


SMALL_LETTERS = """() => [...document.querySelectorAll('.turn *')].filter((one) =>
  parseFloat(getComputedStyle(one).fontSize) < 12).map((one) => one.className)"""
