"""What holds for every recipe without tokens, ours and a user's own."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import network_of_ones_own as own
import selfteach
import selfteach.testing
from saved import everything
from selfteach.api.resolve import NETWORK_BUNDLES, kind_of
from selfteach.cli import main
from selfteach.cli.train import configured, run_of
from selfteach.errors import UserError
from selfteach.importing import load_object
from selfteach.recipes import METHODS, NETWORK_RECIPES, knobs, network_recipe_named, with_knobs
from selfteach.recipes.knobs import documented
from selfteach.recipes.network_kit import NetworkOptimization, NetworkRecipe, PositiveFloat, settings
from selfteach.studies.code import network_code_files
from selfteach.studies.laptop import presets
from selfteach.testing import evaluate_outputs
from selfteach.training.learner import Stage
from selfteach.training.learners import LEARNERS, learner_kind
from selfteach.training.network_learner import parts_of
from selfteach.training.text.saved import SavedRun

EVERY = [(name, preset) for name, kind in NETWORK_RECIPES.items() for preset in presets(kind)]
LINE = f"{own.__file__}:Line"
SCREEN = 60
COMMON = {"name", "title", "source", "formula", "knobs", "presets", "networks", "learner", "outputs"}
QUIET = ("--device", "cpu", "--samples-every", "0")


# --- what they declare --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "preset"), EVERY)
def test_knob_names_are_unique_and_no_setting_of_a_run(name: str, preset: str) -> None:
    recipe = presets(NETWORK_RECIPES[name])[preset]
    parts = [getattr(recipe, one.name) for one in fields(recipe)]
    names = [
        one.name
        for part, outer in zip(parts, fields(recipe), strict=True)
        for one in (fields(part) if is_dataclass(part) else [outer])
    ]
    assert len(names) == len(set(names))
    assert set(names) == set(knobs(recipe))
    assert not set(names) & {one.name for bundle in NETWORK_BUNDLES.values() for one in fields(bundle)}


@pytest.mark.parametrize("name", NETWORK_RECIPES)
def test_every_knob_and_every_output_is_documented(name: str) -> None:
    recipe = NETWORK_RECIPES[name]()
    assert [knob for knob, (_, meaning) in documented(recipe).items() if not meaning] == []
    assert recipe.outputs
    assert [one for one, meaning in recipe.outputs.items() if not re.match(r"\[[^\]]*\] \S", meaning)] == []
    assert all([recipe.title, recipe.formula, recipe.networks])
    assert recipe.source.startswith("https://")


@pytest.mark.parametrize("name", NETWORK_RECIPES)
def test_its_learner_says_what_it_counts_and_follows(name: str) -> None:
    recipe = NETWORK_RECIPES[name]()
    assert recipe.learner in LEARNERS
    kind = learner_kind(recipe)
    assert all([kind.unit, kind.headline])
    assert kind.better in ("higher", "lower")


@pytest.mark.parametrize("name", NETWORK_RECIPES)
def test_it_imports_the_kit_and_mathematics_alone_and_is_short(name: str) -> None:
    file = Path(inspect.getfile(NETWORK_RECIPES[name]))
    tree = ast.parse(file.read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {one for one in imported if one.startswith("selfteach.")}
    assert {one for one in ours if not one.startswith("selfteach.objective.")} == {
        "selfteach.recipes.network_kit"
    }
    prose = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = file.read_text().splitlines()
    assert sum(bool(line.strip()) and i not in prose for i, line in enumerate(lines, start=1)) <= 120


def drawn(outputs: Mapping[str, str]) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays of the shapes that outputs' descriptions begin with, between 0.1 and 0.9: axes of one name have one size.
    Integers where a description speaks of labels or of int, truth values where it speaks of bool."""
    random, sizes, found = np.random.default_rng(0), dict[str, int](), {}
    for name, meaning in outputs.items():
        axes = re.findall(r"[^\s,\[\]]+", meaning[: meaning.index("]") + 1])
        shape = [int(axis) if axis.isdigit() else sizes.setdefault(axis, 2 + len(sizes) % 3) for axis in axes]
        values = random.uniform(0.1, 0.9, shape)
        if re.search(r"\bbool", meaning):
            found[name] = values > 0.5
        elif re.search(r"\b(int|int64|labels)\b", meaning):
            found[name] = (values > 0.5).astype(np.int64)
        else:
            found[name] = values
    return found


@pytest.mark.parametrize(("name", "preset"), EVERY)
def test_losses_and_gradients_are_finite_and_something_is_trained(name: str, preset: str) -> None:
    recipe = presets(NETWORK_RECIPES[name])[preset]
    out = evaluate_outputs(recipe, drawn(recipe.outputs))
    assert out["losses"].keys() == out["grads"].keys() == set(recipe.networks)
    for network in recipe.networks:
        assert np.isfinite(out["losses"][network])
        assert max(np.abs(one).max() for one in out["grads"][network].values()) > 0


@pytest.mark.parametrize(("name", "those", "not_those"), [
    ("recursive-meta", {"recursion.py", "bases.py", "softmax.py", "r60_recursive_meta.py"}, {"ridge.py", "arrays.py"}),
    ("kernel-sd", {"ridge.py", "r35_kernel_sd.py"}, {"recursion.py", "network.py"}),
])  # fmt: skip
def test_a_row_depends_on_its_own_learners_code(name: str, those: set[str], not_those: set[str]) -> None:
    recipe = NETWORK_RECIPES[name]()
    found = {file.name for file in network_code_files(recipe, learner_kind(recipe))}
    assert those <= found
    assert not found & not_those


# --- what the commands make of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NETWORK_RECIPES, LINE])
def test_recipes_as_json_say_all_that_there_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", name, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    found = kind_of(name)[2]
    assert isinstance(found, type)
    kind = found
    assert said.keys() == COMMON
    assert set(said["knobs"]) == set(knobs(kind()))
    assert all(one["meaning"] for one in said["knobs"].values())
    assert said["outputs"] == dict(kind.outputs)
    assert said["networks"] == list(kind.networks)
    assert said["presets"].keys() == presets(kind).keys()


@pytest.mark.parametrize("name", [*NETWORK_RECIPES, LINE])
def test_the_help_fits_a_screen_and_has_every_knob(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main(["train", name, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < SCREEN
    found = kind_of(name)[2]
    assert isinstance(found, type)
    for knob in knobs(found()):
        assert any(line.startswith(f"  --{knob.replace('_', '-')} ") for line in lines), knob
    titles = [i for i, line in enumerate(lines) if line and not line.startswith(" ")]
    assert all(lines[i + 1].startswith("  --") for i in titles if i > 2), "a title without options"


@pytest.mark.parametrize("words", [
    ["kernel-sd", "--alpha", "0.1", "--steps", "3", "--seed", "4", "--eval-every", "2"],
    ["recursive-meta", "--anchor-end", "0.5", "--teacher-weights", "0.25", "0.75", "--keep", "3"],
    [LINE, "--beta", "0.25", "--lr", "0.01", "--preset", "alone"],
])  # fmt: skip
def test_what_a_dry_run_prints_is_taken_as_settings(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words, "--dry-run"]) == 0
    file = tmp_path / "settings.toml"
    file.write_text(capsys.readouterr().out)
    asked, again = (
        run_of([*one, "--out", str(tmp_path / "run")]) for one in (words, ["--config", str(file)])
    )
    assert again == asked
    changed = run_of(["--config", str(file), "--out", str(tmp_path / "run"), "--seed", "9"])
    assert changed.recipe == asked.recipe
    assert changed.seed == 9


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "kernel-sd", "--alpha", "0.1", "--steps", "2", "--out", str(out), *QUIET]) == 0
    return out


def test_a_run_is_settings_for_another(run: Path, tmp_path: Path) -> None:
    again = run_of(["--config", str(run), "--out", str(tmp_path / "run"), "--steps", "3"])
    assert knobs(again.recipe) == {**knobs(NETWORK_RECIPES["kernel-sd"]()), "alpha": 0.1, "steps": 3}
    with pytest.raises(UserError, match="are of recipe kernel-sd, not recursive-meta"):
        run_of(["recursive-meta", "--config", str(run)])


@pytest.mark.parametrize(
    "words", [["--alpha", "0.2"], ["--seed", "1"], ["--steps", "5"], ["--eval-every", "1"]]
)
def test_a_run_does_not_go_on_with_other_settings(
    run: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    assert main(["train", "--out", str(run), "--resume", *words]) != 0
    said = capsys.readouterr().err
    assert words[0].lstrip("-").replace("-", "_") in said.replace("-", "_")
    assert "Traceback" not in said
    assert (run / "metrics.jsonl").read_bytes() == before


# --- a user's own -------------------------------------------------------------------------------------------------


def test_a_recipe_and_a_learner_of_ones_own_go_from_words_to_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert (
        main(["train", LINE, "--steps", "40", "--eval-every", "5", "--out", str(out), "--device", "cpu"]) == 0
    )
    for kept in ("metrics.jsonl", "summary.json", "model/line.safetensors", "report.html"):
        assert (out / kept).is_file(), kept
    summary = json.loads((out / "summary.json").read_text())
    assert summary["unit"] == "points"
    assert summary["spent"] == 40 * 16
    assert summary["headline"] < 1
    page = (out / "report.html").read_text()
    assert "distance from the slope" in page
    capsys.readouterr()
    assert main(["doctor", LINE, "--steps", "2", "--device", "cpu"]) == 0
    assert main(["study", f"{own.__file__}:STUDY", "--list"]) == 0
    assert "The average holds the line back" in capsys.readouterr().out


@pytest.mark.parametrize("given", [LINE, own.Line, own.Line(beta=0.0)], ids=["name", "class", "object"])
def test_it_is_trained_from_python_too_and_goes_on_bit_for_bit(
    given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"samples_every": 0, "checkpoint_every": 4, "device": "cpu", "progress": None}
    whole = selfteach.train(given, out=tmp_path / "whole", **told)
    assert whole.summary["steps"] == 12
    kind = load_object(own.Line.learner)
    collect = kind.collect

    def interrupted(self: Any, step: int) -> Any:
        if step == 6:
            raise KeyboardInterrupt
        return collect(self, step)

    monkeypatch.setattr(kind, "collect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        selfteach.train(given, out=tmp_path / "cut", **told)
    monkeypatch.undo()
    selfteach.train(given, out=tmp_path / "cut", resume=True, progress=None)
    (saved, rows, _), (other, metrics, _) = (everything(tmp_path / name, 12) for name in ("cut", "whole"))
    assert rows == metrics
    assert saved.keys() == other.keys()
    assert any("average" in place for place in saved)
    for place, value in saved.items():
        assert torch.equal(value, other[place]), place


TAKEN = [
    "seed", "keep", "device", "budget", "track", "project", "out", "preset", "config", "resume", "dry_run", "model",
    "task", "tokenizer", "progress",
]  # fmt: skip


@pytest.mark.parametrize("taken", TAKEN)
def test_a_knob_of_ones_own_may_not_be_called_as_a_setting(taken: str, tmp_path: Path) -> None:
    kind = settings(
        type(
            "Mine",
            (own.Line,),
            {"__annotations__": {taken: PositiveFloat}, taken: 1.0, "__module__": __name__},
        )
    )
    with pytest.raises(UserError, match=f"knob '{taken}' is taken by another setting"):
        selfteach.train(kind, out=tmp_path / "run", progress=None)
    with pytest.raises(UserError, match=f"knob '{taken}' is taken by another setting"):
        selfteach.train(kind(), out=tmp_path / "run", progress=None)


@settings
class Twice(own.Line):
    """Two optimizers whose knobs have the same names."""

    other: NetworkOptimization = NetworkOptimization()


def test_a_knob_may_not_be_there_twice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="knob 'optim' is taken by another setting"):
        selfteach.train(Twice, out=tmp_path / "run", progress=None)


@settings
class Untrained(own.Line):
    learner = "rigde"


@settings
class Trained(own.Line):
    learner = f"{own.__file__}:Average"


@settings
class Lossless(NetworkRecipe):
    learner = "ridge"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Untrained, "'rigde', which is no learner; did you mean ridge"),
        (Trained, "is no learner: give a subclass"),
        (Lossless, "has no loss"),
        (own.LineLearner, "is no recipe"),
    ],
)
def test_a_recipe_of_ones_own_that_cannot_be_trained_is_refused(kind: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        selfteach.train(kind, out=tmp_path / "run", progress=None)


def test_names_of_networks_and_of_texts_are_apart() -> None:
    assert {name for name, kind in METHODS.items() if issubclass(kind, NetworkRecipe)} == set(NETWORK_RECIPES)
    with pytest.raises(UserError, match="no recipe without tokens is called 'opsd'"):
        evaluate_outputs("opsd", {})


def test_steps_are_not_raised_where_a_learner_has_laid_out_its_stages(tmp_path: Path) -> None:
    few = {"data": "digits", "out": tmp_path / "run", "samples_every": 0, "device": "cpu", "progress": None}
    selfteach.train("sla", steps=2, schedule="constant", **few)
    with pytest.raises(UserError, match="stages were laid out for 2 steps"):
        selfteach.train("sla", steps=4, schedule="constant", resume=True, **few)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"y": np.zeros(3)}, "y has shape"),
        ({"y": np.zeros((1, 1))}, "y has n = 1"),
        ({"norm": np.ones(1)}, "norm has"),
    ],
)
def test_an_array_of_another_shape_is_not_broadcast(changed: dict[str, Any], said: str) -> None:
    given = {"f": np.ones((3, 1)), "y": np.zeros((3, 1)), "t": np.ones((3, 1)), "norm": np.array(2.0)}
    assert selfteach.testing.evaluate_outputs("kernel-sd", given)["losses"]["network"] == pytest.approx(0.725)
    with pytest.raises(ValueError, match=said):
        selfteach.testing.evaluate_outputs("kernel-sd", {**given, **changed})


@pytest.mark.parametrize("name", ["sla", "sd-darts"])
def test_a_label_that_torch_would_leave_out_is_refused(name: str) -> None:
    recipe = network_recipe_named(name)
    given = drawn(recipe.outputs)
    evaluate_outputs(recipe, given)
    with pytest.raises(ValueError, match="y holds -100; labels are"):
        evaluate_outputs(recipe, {**given, "y": np.where(np.arange(len(given["y"])) == 0, -100, given["y"])})


@pytest.mark.parametrize("name", ["asd", "livetalk", "self-e", "diffusionopd", "afd"])
def test_no_further_numbers_of_steps_are_asked_for(name: str) -> None:
    laptop = presets(NETWORK_RECIPES[name])["laptop"]
    assert with_knobs(laptop, {"step_counts": ()}).step_counts == ()


@pytest.mark.parametrize("name", ["diffusionopd", "self-e", "afd"])
def test_a_unet_is_trained_on_images_of_ones_own(name: str, tmp_path: Path) -> None:
    random, file = np.random.default_rng(0), str(tmp_path / "images.npz")
    y = np.arange(40) % 2
    np.savez(file, x=random.uniform(size=(40, 1, 4, 4)) * y[:, None, None, None], y=y)
    small = {
        "width": 8, "depth": 1, "pretrain_steps": 2, "steps": 3, "batch_size": 8, "sampling_steps": 2,
        "step_counts": (1,), "eval_samples": 4, "device": "cpu", "progress": None,
    }  # fmt: skip
    own = {"diffusionopd": {"specialist_steps": 2}, "self-e": {"curriculum": 0}, "afd": {"base_data": file}}
    run = selfteach.train(name, data=file, architecture="unet", out=tmp_path / "run", **small, **own[name])
    assert 0 <= run.summary["eval/recognized/2"] <= 1
    assert list((tmp_path / "run" / "images").glob("*after*.png"))
    with pytest.raises(UserError, match="of images, "):
        selfteach.train(name, data="opposite", architecture="unet", out=tmp_path / "points", **small)


def test_what_is_about_text_says_that_there_is_none(tmp_path: Path) -> None:
    quiet = {"device": "cpu", "progress": None}
    run = selfteach.train("kernel-sd", steps=2, samples_every=1, out=tmp_path / "run", **quiet)
    with pytest.raises(UserError, match="weights are safetensors in"):
        run.load()
    with pytest.raises(UserError, match="no text but points: selfteach report"):
        run.samples()
    with pytest.raises(UserError, match="learns from nothing"):
        selfteach.train("asd", dmd_weight=0, adversarial_weight=0, out=tmp_path / "other", **quiet)
    with pytest.raises(UserError, match=r"or digits, glyphs, or FILE\.npz"):
        selfteach.train("self-e", data="sine", out=tmp_path / "other", **quiet)
    with pytest.raises(UserError, match=r"weights are in .*model"):
        SavedRun(tmp_path / "run").part("loading", dict)
    with pytest.raises(UserError) as refused:
        configured(["kernel-sd", "--task", "table"], "compare")
    assert "no causal language model, which selfteach compare is about" in str(refused.value)


def test_no_weights_are_offered_where_none_can_be_begun_with(tmp_path: Path) -> None:
    quiet = {"device": "cpu", "progress": None, "samples_every": 0}
    selfteach.train("kernel-sd", steps=2, out=tmp_path / "run", **quiet)
    with pytest.raises(UserError, match=r"start a new run in another --out$"):
        selfteach.train("kernel-sd", steps=2, alpha=0.3, out=tmp_path / "run", resume=True, **quiet)


def test_a_run_that_diverges_names_every_learning_rate_that_there_is(tmp_path: Path) -> None:
    """The stage that broke may have another one than the stage where it is seen."""
    small = {"pretrain_steps": 1, "steps": 2, "batch_size": 2, "eval_samples": 2, "step_counts": (1,)}
    with pytest.raises(UserError) as problem:
        selfteach.train(
            "afd", pretrain_lr=1e20, discriminator_warmup=1, out=tmp_path / "run", device="cpu", progress=None, **small
        )  # fmt: skip
    assert "lower the learning rate (pretrain_lr, lr, discriminator_lr)" in str(problem.value)


@pytest.mark.parametrize(
    ("name", "knobs", "kept"),
    [
        ("gdsd", {"eval_prompts": 2, "batch_size": 6, "per_prompt": 2}, "batch.puzzles.solution"),
        ("livetalk", {"eval_samples": 2, "batch_size": 2}, "batch.x0"),
    ],
)
def test_the_batch_that_broke_a_run_is_kept(
    name: str, knobs: dict[str, Any], kept: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"the batch is in .*step-1\.json"):
        selfteach.train(name, pretrain_lr=1e25, out=tmp_path / "run", device="cpu", progress=None, **knobs)
    assert kept in load_file(tmp_path / "run" / "failed" / "step-1.safetensors")


def test_a_batch_is_taken_apart_whatever_holds_it() -> None:
    optimization = NetworkOptimization()
    found = dict(
        parts_of([{"a": np.ones(2)}, Stage("x", 3), None, (torch.zeros(1), "b"), optimization], "batch")
    )
    assert found["batch.0.a"].tolist() == [1, 1]
    assert (found["batch.1.name"], found["batch.1.steps"], found["batch.3.1"]) == ("x", 3, "b")
    assert found["batch.4.lr"] == optimization.lr
    assert not [place for place in found if place.startswith("batch.2")]


@pytest.mark.parametrize(
    ("name", "array"), [("diffusionopd", "s"), ("afd", "score"), ("self-e", "s"), ("livetalk", "f_text")]
)
def test_nothing_that_is_not_finite_goes_unseen(name: str, array: str) -> None:
    """A comparison takes NaN for a number, and the loss is finite and another."""
    given = drawn(network_recipe_named(name).outputs)
    spoilt = given[array].copy()
    spoilt.flat[0] = np.nan
    with pytest.raises(ValueError, match=f"^{array} has a number that is not finite"):
        evaluate_outputs(name, {**given, array: spoilt})


@pytest.mark.parametrize("name", ["gdsd", "livetalk", "asd", "diffusionopd", "self-e"])
def test_whole_numbers_and_tensors_have_the_gradients_of_floats(name: str) -> None:
    recipe = network_recipe_named(name)
    floats = {key: np.rint(4 * value) + 1 for key, value in drawn(recipe.outputs).items()}
    wanted = evaluate_outputs(recipe, floats)
    for given in (
        {key: value.astype(np.int32) for key, value in floats.items()},
        {key: torch.tensor(value).bfloat16().requires_grad_() for key, value in floats.items()},
    ):
        found = evaluate_outputs(recipe, given)
        assert found["losses"] == wanted["losses"]
        for network, slopes in wanted["grads"].items():
            assert found["grads"][network].keys() == slopes.keys()
            for key, slope in slopes.items():
                np.testing.assert_array_equal(found["grads"][network][key], slope)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"s": np.full((2, 3), 1j)}, "s is of type complex128"),
        ({"s": np.full((2, 3), "a")}, "s is of type <U1"),
        ({"s": None}, "s is of type object"),
        ({"s": [[1.0, 2.0], [3.0]]}, "s is no array"),
        ({"s": np.ones((0, 3))}, "s is empty"),
    ],
)
def test_what_is_no_array_of_numbers_is_named(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        evaluate_outputs("gdsd", {**drawn(network_recipe_named("gdsd").outputs), **changed})


def test_labels_are_no_floats() -> None:
    given = drawn(network_recipe_named("sla").outputs)
    with pytest.raises(ValueError, match="y is of type float64; labels are whole numbers"):
        evaluate_outputs("sla", {**given, "y": given["y"].astype(float)})
