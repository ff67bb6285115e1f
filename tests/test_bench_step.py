"""The scripts that measure steps: their arithmetic, their tables and their words; nothing of TRL is needed."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts' folder, as Python has it when one of them is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in [one for one in sys.modules if one.split(".")[0] in ("stepbench", "bench_step", "growth")]:
        del sys.modules[name]


# --- numbers ------------------------------------------------------------------------------------------------------


def test_ratios_are_taken_within_a_repetition() -> None:
    from stepbench.figures import ratios, spread

    found = ratios([1.0, 4.0, 9.0], [2.0, 4.0, 6.0])
    assert found == [0.5, 1.0, 1.5]
    one = spread(found)
    assert (one.median, one.least, one.most) == (1.0, 0.5, 1.5)
    assert one.least <= one.low <= one.median <= one.high <= one.most
    assert one.told() == "1.00 (0.50–1.50)"
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0], [1.0, 2.0])


def test_a_single_repetition_has_no_spread() -> None:
    from stepbench.figures import spread

    one = spread([0.7])
    assert (one.median, one.low, one.high, one.told()) == (0.7, 0.7, 0.7, "0.70")
    with pytest.raises(ValueError, match="nothing was measured"):
        spread([])


def test_the_bootstrap_interval_is_that_of_the_median() -> None:
    from stepbench.figures import spread

    # One slow repetition of nine: the median's interval does not reach it.
    one = spread([1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01, 0.99, 5.0])
    assert one.most == 5.0
    assert 0.98 <= one.low <= one.high < 1.05


@pytest.mark.parametrize("true", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found_exactly(true: float) -> None:
    from stepbench.figures import exponent

    x = [1.0, 2.0, 4.0, 8.0, 16.0]
    fit = exponent(x, [3.0 * value**true for value in x])
    assert fit.exponent == pytest.approx(true, abs=1e-12)
    assert fit.scale == pytest.approx(3.0)
    assert fit.error == pytest.approx(0.0, abs=1e-12)


def test_the_standard_error_is_that_of_least_squares() -> None:
    from stepbench.figures import exponent, line

    # Around y = x: residuals of log y are +a, −2a, +a at log x = −1, 0, 1: slope 1, Σ r² = 6a², n − 2 = 1, Σ x² = 2.
    a, x = 0.1, [math.exp(-1), 1.0, math.exp(1)]
    y = [math.exp(-1 + a), math.exp(-2 * a), math.exp(1 + a)]
    fit = exponent(x, y)
    assert fit.exponent == pytest.approx(1.0)
    assert fit.error == pytest.approx(math.sqrt(6 * a**2 / 1 / 2))
    slope, intercept, error = line([1.0, 2.0, 3.0], [5.0, 7.0, 9.0])
    assert (slope, intercept) == (pytest.approx(2.0), pytest.approx(3.0))
    assert error == pytest.approx(0.0, abs=1e-9)


def test_what_has_no_exponent_is_refused() -> None:
    from stepbench.figures import exponent

    with pytest.raises(ValueError, match="two different places"):
        exponent([2.0, 2.0], [1.0, 3.0])
    with pytest.raises(ValueError, match="above 0"):
        exponent([1.0, 2.0], [0.0, 3.0])


# --- shapes and words ---------------------------------------------------------------------------------------------


def test_the_shapes_are_those_of_the_page() -> None:
    from stepbench.shapes import ON_CPU, SHAPES

    sizes = {name: (SHAPES[name].prompts, SHAPES[name].group, SHAPES[name].tokens) for name in ON_CPU}
    assert sizes == {"arena": (64, 1, 30), "8x64": (8, 1, 64), "4x8x128": (4, 8, 128), "8x512": (8, 1, 512)}
    for one in SHAPES.values():
        assert one.rows % one.micro_batch == 0, one
        assert one.generated == one.prompts * one.group * one.tokens


def test_a_shape_of_ones_own() -> None:
    from stepbench.shapes import parsed

    one = parsed("2x4x16:4")
    assert (one.rows, one.tokens, one.micro_batch, one.generated) == (8, 16, 4, 128)
    assert parsed("3x1x5").micro_batch == 3
    for text in ("2x4", "axbxc", "2x4x0", "2x4x16:0", "2x4x16:3", ""):
        with pytest.raises(ValueError, match=r"shape|micro-batch"):
            parsed(text)


def test_variants_of_ours_are_named_with_their_options() -> None:
    import bench_step

    words = "bf16=--sampler-dtype bfloat16 --teacher-dtype bfloat16"
    found = bench_step.sides("sdft", [words], before="older/src")
    assert [one.label for one in found[:3]] == ["ours", "ours bf16", "ours before"]
    assert found[1].words == ("--sampler-dtype", "bfloat16", "--teacher-dtype", "bfloat16")
    assert found[2].source == "older/src"
    for bad in ("--precision mixed", "=--precision mixed", "--precision=mixed"):
        with pytest.raises(ValueError, match="NAME=OPTIONS"):
            bench_step.sides("sdft", [bad])


def test_sides_are_chosen_by_label() -> None:
    import bench_step

    every = bench_step.sides("gkd", [])
    chosen = bench_step.chosen(every, ["TRL GKD", "ours"])
    assert [one.label for one in chosen] == ["ours", "TRL GKD"]
    assert bench_step.chosen(every, None) == every
    words = ["--shapes", "arena", "--families", "sdpo", "gkd", "--sides", "ours", "TRL SDPO"]
    cells = bench_step.plan(bench_step.arguments().parse_args(words))
    assert [[one.label for one in sides] for _, _, sides in cells] == [["ours", "TRL SDPO"], ["ours"]]
    with pytest.raises(ValueError, match="no side 'verl'"):
        bench_step.plan(bench_step.arguments().parse_args([*words[:-1], "verl"]))


def test_the_order_rotates_so_that_every_side_comes_first_once() -> None:
    import bench_step

    orders = [bench_step.order(3, i) for i in range(3)]
    assert [one[0] for one in orders] == [0, 1, 2]
    assert all(sorted(one) == [0, 1, 2] for one in orders)


def test_the_command_line_becomes_cells() -> None:
    import bench_step

    words = ["--shapes", "arena", "8x64", "--families", "sdft", "sdpo", "--repeats", "2", "--sides", "ours"]
    options = bench_step.arguments().parse_args(words)
    cells = bench_step.plan(options)
    assert [(shape.name, family) for shape, family, _ in cells] == [
        ("arena", "sdft"), ("arena", "sdpo"), ("8x64", "sdft"), ("8x64", "sdpo"),
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        bench_step.arguments().parse_args(["--repeats", "0"])


def test_our_side_is_a_command_line_that_train_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from stepbench import ours, workload
    from stepbench.shapes import SHAPES
    from stepbench.side import Task

    from selfteach.cli.train import configured
    from selfteach.task.arena import model_folder

    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(workload.texts(64, 0)))
    monkeypatch.setenv(workload.ROWS, str(rows))
    model = str(model_folder("table"))
    for family in ours.RECIPES:
        task = Task(
            "ours",
            family,
            SHAPES["arena"],
            model,
            model,
            str(rows),
            str(tmp_path / family),
            words=("--lr", "1"),
        )
        config, _ = configured(ours.words_of(task))
        recipe = config.recipe
        assert (recipe.optimization.prompts, recipe.rollouts.per_prompt, recipe.rollouts.max_tokens) == (
            64,
            1,
            30,
        )
        assert recipe.optimization.lr == 1.0  # what is given comes last, and holds
        assert recipe.adapter.lora_rank == 0
        assert config.evaluation.eval_problems == config.bookkeeping.checkpoint_every == 0


# --- prompts ------------------------------------------------------------------------------------------------------


def test_prompts_are_the_same_whenever_they_are_made() -> None:
    from stepbench.workload import texts, words

    assert texts(5, 1) == texts(5, 1) != texts(5, 2)
    one = words(2, 0, prompt=7, hints=[3, 4])[0]
    asked = one["prompt"][-1]["content"]
    assert len(asked.split()) == 7
    assert [len(hint.split()) for hint in one["hints"]] == [10, 11]
    assert all(hint.startswith(asked + " ") for hint in one["hints"])


def test_the_fingerprint_knows_tokens_and_not_order() -> None:
    from stepbench.workload import fingerprint

    rows = [([1, 2], [3]), ([4], [5, 6])]
    assert fingerprint(rows) == fingerprint(rows[::-1])
    assert fingerprint(rows) != fingerprint([([1, 2], [3]), ([4], [5, 7])])
    assert fingerprint(rows) != fingerprint([([1], [2, 3]), ([4], [5, 6])])


def test_the_workload_is_a_task_whose_teacher_reads_its_own_words() -> None:
    from stepbench.workload import Workload, texts, words

    from selfteach.roles.view import filled

    rows = texts(3, 0)
    task = Workload(rows)
    example = task.train(4)
    assert example.prompt == tuple(rows[1]["prompt"])
    assert filled(example, task.wording["solution"]) == rows[1]["teacher"]
    grade = task.grade(example, "whatever")
    assert not grade.correct
    assert grade.feedback == rows[1]["teacher"]
    several = Workload(words(1, 0, 4, [2, 2]))
    assert [filled(several.train(0), several.wording[f"hint{i}"]) for i in (0, 1)] == several.rows[0]["hints"]


# --- the recorder -------------------------------------------------------------------------------------------------


class Ticking:
    """A clock that a test moves by hand."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> tuple[float, float]:
        return self.time, 2 * self.time


def test_a_phase_within_another_is_counted_once_and_all_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from stepbench import recorder as module

    monkeypatch.setattr(module, "forget_peak", lambda cuda: None)
    monkeypatch.setattr(module, "peak", lambda cuda: 7)
    clock = Ticking()
    recorder = module.Recorder(steps=1)
    recorder.now = clock
    recorder.began = clock()
    clock.time += 100
    recorder.tick()  # the warm-up
    with recorder.phase("loss"):
        clock.time += 1
        with recorder.phase("student"):
            clock.time += 4
        clock.time += 2
    clock.time += 8
    recorder.note(loss=0.5)
    with pytest.raises(module.Finished):
        recorder.tick()
    (row,) = recorder.rows
    assert (row["wall"], row["cpu"], row["loss"]) == (15, 30, 0.5)
    assert row["phases"]["loss"] == [3, 6]
    assert row["phases"]["student"] == [4, 8]
    assert row["phases"]["rest"] == [8, 16]
    assert sum(one[0] for one in row["phases"].values()) == row["wall"]
    assert recorder.peak == 7


def test_what_a_device_holds_at_most_goes_to_the_phase_in_which_it_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from stepbench import recorder as module

    held = [0]
    monkeypatch.setattr(module, "forget_peak", lambda cuda: held.__setitem__(0, 0))
    monkeypatch.setattr(module, "peak", lambda cuda: held[0])
    monkeypatch.setattr(module.torch.cuda, "synchronize", lambda: None)
    recorder = module.Recorder(steps=1, cuda=True)
    held[0] = 99  # of the warm-up
    recorder.tick()
    held[0] = 1
    with recorder.phase("loss"):
        held[0] = 5
        with recorder.phase("student"):
            held[0] = 9
        with recorder.phase("head"):  # no phase of the table: what is around it
            held[0] = 7
    held[0] = 2
    with pytest.raises(module.Finished):
        recorder.tick()
    assert recorder.memory == {"rest": 2, "loss": 7, "student": 9}
    assert recorder.peak == 9


def test_passes_are_told_apart_by_their_gradient() -> None:
    from stepbench.recorder import Recorder

    class Body(nn.Linear):
        pass

    recorder = Recorder(steps=1)
    recorder.wrap(Body, "forward", recorder.whose)
    body, x = Body(2, 2), torch.ones(1, 2)
    body(x)
    with torch.no_grad():
        body(x)
    assert set(recorder.phases) == {"student", "teacher"}
    recorder.phases = {}
    with recorder.phase("sampling"), torch.no_grad():
        body(x)
    assert set(recorder.phases) == {"sampling"}


def test_whether_the_weights_moved() -> None:
    from stepbench.recorder import Recorder

    recorder, model = Recorder(steps=1), nn.Linear(3, 3)
    assert recorder.moved == 0.0
    recorder.remember(model)
    assert recorder.moved == 0.0
    with torch.no_grad():
        model.weight.mul_(1.5)
    assert recorder.moved == pytest.approx(0.5)


def test_operations_are_counted_by_their_kind() -> None:
    from stepbench import kinds

    assert kinds.kind_of("aten::addmm") == kinds.kind_of("aten::mm") == "products"
    assert kinds.kind_of("aten::scaled_dot_product_attention") == "attention"
    assert kinds.kind_of("aten::_scaled_dot_product_flash_attention_for_cpu") == "attention"
    assert kinds.kind_of("aten::_log_softmax") == kinds.kind_of("aten::multinomial") == "softmax and draws"
    assert (
        kinds.kind_of("aten::cat")
        == kinds.kind_of("aten::copy_")
        == kinds.kind_of("aten::index_select")
        == "copies"
    )
    assert kinds.kind_of("aten::mul") == kinds.kind_of("aten::catch") == kinds.ELSE
    found = kinds.shares([("aten::mm", 1.0), ("aten::mul", 0.5)], total=2.0)
    assert (found["products"], found[kinds.ELSE], found[kinds.BETWEEN]) == (0.5, 0.25, 0.25)
    assert sum(found.values()) == 1.0


def test_phases_are_profiled_where_that_is_asked() -> None:
    from stepbench import kinds
    from stepbench.recorder import Recorder

    recorder, square = Recorder(steps=1, profiled=True), torch.ones(64, 64)
    recorder.warm = True
    with recorder.phase("loss"), recorder.phase("student"):
        square @ square
    (found,) = recorder.operations.values()
    assert list(recorder.operations) == ["loss"]  # the outer one holds what is within
    assert "products" in {kinds.kind_of(name) for name, seconds in found if seconds > 0}


# --- what is refused ----------------------------------------------------------------------------------------------


def made(tokens: int = 1920, prompts: str = "a", loss: float = 0.1, moved: float = 1e-3) -> dict[str, Any]:
    phases = {
        name: [1.0, 2.0]
        for name in ("sampling", "teacher", "student", "loss", "backward", "optimizer", "rest")
    }
    step = {"wall": 7.0, "cpu": 14.0, "phases": phases, "tokens": tokens, "prompts": prompts, "loss": loss}
    return {"steps": [step], "peak": 2**30, "before": 2**28, "state": 2**27, "above": 2**29, "moved": moved}


def test_unequal_work_is_refused() -> None:
    import bench_step
    from stepbench.shapes import SHAPES

    shape = SHAPES["arena"]
    bench_step.refuse_unequal(shape, {"ours": [made()], "TRL SDFT": [{"failed": "no module"}, made()]})
    for other, said in (
        (made(tokens=1919), "generated 1919 tokens"),
        (made(prompts="b"), "not the same prompts"),
        (made(loss=math.nan), "loss is nan"),
        (made(moved=0.0), "did not move"),
    ):
        with pytest.raises(SystemExit, match=said):
            bench_step.refuse_unequal(shape, {"ours": [made()], "plain loop": [other]})


# --- bounds and pages ---------------------------------------------------------------------------------------------


def test_the_bounds_of_a_model_that_can_be_counted_by_hand() -> None:
    from stepbench.bounds import Machine, Work, bounds, model_of
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=4, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=2, vocab_size=10,
    )  # fmt: skip
    model = model_of(config)
    # A layer: queries and output 4·4 each, keys and values 4·2 each, three MLP matrices of 4·8.
    assert (model.body, model.head) == (2 * (32 + 16 + 96), 40)
    assert (model.cached, model.attended) == (2 * 2 * 2 * 4, 4 * 2 * 4)
    found = bounds(model, Work(rows=1, prompt=0, shown=0, tokens=2), Machine(bandwidth=1.0, flops=1e12))
    assert found["sampling"] == pytest.approx(2 * (288 + 40) * 4 + 2 * 1 * 32, rel=1e-6)
    assert found["optimizer"] == 28 * (288 + 40)
    fast = bounds(model, Work(rows=1, prompt=0, shown=0, tokens=2), Machine(bandwidth=1e12, flops=1.0))
    assert fast["teacher"] == fast["student"] == 2 * 288 * 2 + 32 * 2**2 / 2
    assert fast["loss + backward"] == 2 * 40 * 2 * 4 + 2 * fast["student"]


def cell(**sides: list[dict[str, Any]]) -> dict[str, Any]:
    from dataclasses import asdict

    from stepbench.shapes import SHAPES

    return {
        "shape": asdict(SHAPES["arena"]), "family": "sdft", "config": "table", "facts": ["hardware: a machine"],
        "sides": {name.replace("_", " "): runs for name, runs in sides.items()},
        "work": {"prompt": 20.0, "shown": 30.0}, "machine": {"bandwidth": 1e10, "flops": 1e11},
        "sizes": {"body": 1000, "head": 100, "cached": 8, "attended": 4},
    }  # fmt: skip


def test_the_page_says_a_devices_memory_by_phase_where_it_was_read() -> None:
    from stepbench import page

    read = made() | {"memory": {"loss": 3 * 2**30, "rest": 2**20}}
    told = page.memory_table(cell(ours=[read], plain_loop=[made()]))
    assert "| ours | 0 | 0 | 0 | 3,072 | 0 | 0 | 1 |" in told.splitlines()
    assert "plain loop" not in told
    assert page.memory_table(cell(ours=[made()])) == ""


def test_the_page_says_ratios_and_what_did_not_run() -> None:
    from stepbench import page

    fast = made()
    fast["steps"][0] |= {"wall": 3.5, "cpu": 7.0}
    found = {
        "cells": {
            "arena/sdft/cpu": cell(ours=[fast], TRL_SDFT=[made()], plain_loop=[{"failed": "no <module>"}])
        },
        "learning": {"sdft": {"ours": [3.0, 2.0, 1.0], "TRL SDFT": [1.0, 2.0, 3.0]}},
    }
    text = page.written(found)
    assert "| ours ÷ TRL SDFT | 0.50 | 0.50 | 1.00 | 1.00 |" in text
    assert "did not run: plain loop: `no <module>`" in text
    assert "| ours | 3.0000 | 1.0000 | yes |" in text
    assert "| TRL SDFT | 1.0000 | 3.0000 | **no** |" in text
    drawn = page.plotted(found)
    assert drawn.startswith("<svg")
    assert drawn.endswith("</svg>\n")
    assert drawn.count("<title>sampling") == 2  # one bar a side that ran


def test_what_was_found_is_written_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    import bench_step

    found = {"cells": {"arena/sdft/cpu": cell(ours=[made()], TRL_SDFT=[made()])}, "learning": {}}
    bench_step.write(found, tmp_path / "new")
    files = {one.name: one.read_text() for one in (tmp_path / "new").iterdir()}
    assert json.loads(files["speed.json"]) == found
    monkeypatch.setattr(sys, "argv", ["bench_step.py", "--page", "--out", str(tmp_path / "new")])
    bench_step.main()
    assert {one.name: one.read_text() for one in (tmp_path / "new").iterdir()} == files


def test_a_folder_of_this_machine_is_not_written_down() -> None:
    from stepbench.page import quoted

    assert quoted("/home/me/models/smollm2") == "smollm2"
    assert quoted("bf16=--precision mixed") == '"bf16=--precision mixed"'


def test_growth_varies_one_size_and_fits_what_it_is_given() -> None:
    import growth

    for sweep, values in growth.SWEEPS.items():
        points = growth.points(sweep)
        assert [getattr(one, sweep) for one in points] == list(values)
        assert len({growth.replace(one, **{sweep: 1}) for one in points}) == 1
    found = {"x": [1, 2, 4], "found": [
        {"cpu": 2.0 * x, "wall": 1.0, "bytes": 100.0 * x**2,
         "phases": {name: [1.0, 5.0] for name in growth.PHASES} | {"teacher": [1.0, 0.0]}}
        for x in (1, 2, 4)
    ]}  # fmt: skip
    fits = growth.fits(found)
    assert fits["step"].exponent == pytest.approx(1.0)
    assert fits["bytes"].exponent == pytest.approx(2.0)
    assert fits["sampling"].exponent == pytest.approx(0.0)
    assert "teacher" not in fits  # what took no time has no exponent


def test_a_random_model_has_a_word_for_every_column(tmp_path: Path) -> None:
    import growth
    from stepbench.models import disturbed, random_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = growth.Point(vocabulary=300, width=32, layers=1).config
    folder = random_model(config, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer.get_vocab()) == 300
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "w1 w2 w294"}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )
    assert len(said["input_ids"]) == 5
    other = disturbed(folder, tmp_path / "teacher", share=0.1)
    before, after = (AutoModelForCausalLM.from_pretrained(one).lm_head.weight for one in (folder, other))
    assert float((after - before).detach().std() / before.detach().std()) == pytest.approx(0.1, rel=0.1)


def test_the_divergence_of_the_plain_loop_is_the_jsd() -> None:
    from stepbench.bare import divergence

    eye = torch.eye(2)
    p, q = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]])
    m = (p + q) / 2
    true = float(((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2)
    assert float(divergence(p.log(), eye, q.log(), eye)) == pytest.approx(true, rel=1e-5)


def test_options_of_both_scripts_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    import bench_step

    assert isinstance(bench_step.arguments(), argparse.ArgumentParser)
    with pytest.raises(SystemExit):
        bench_step.arguments().parse_args(["--help"])
    said = capsys.readouterr().out
    for option in ("--ours-args", "--before", "--repeats", "--learn", "--write"):
        assert option in said
