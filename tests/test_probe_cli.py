"""``selfteach probe`` from words to tables, numbers and page, on the real model of world "table"."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfteach.api.progress import Silent
from selfteach.cli import main
from selfteach.cli.train import configured
from selfteach.objective.ideal import cosine, ideal_gradient
from selfteach.probe import alignment
from selfteach.probe.finding import Finding, Looked, Table, Token, shown, write_numbers
from selfteach.probe.interval import Interval
from selfteach.probe.nodes import find_nodes
from selfteach.probe.page import write_page
from selfteach.probe.scene import Scene, set_scene

HOSTILE = "<script>alert(1)</script>\u202egnihtemos\x00<img src=http://a.b/c onerror=x>"
SMALL = ["--task", "table", "--prompts", "12"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    out = str(tmp_path_factory.mktemp("scene"))
    config, _ = configured(["opsd", *SMALL, "--per-prompt", "2", "--out", out])
    return set_scene(config, ("plain", "sibling"), Silent())


def found(folder: Path, *words: str) -> dict[str, Any]:
    assert main(["probe", *words, "--out", str(folder)]) == 0
    assert (folder / f"probe-{words[0]}.html").exists()
    content: dict[str, Any] = json.loads((folder / f"probe-{words[0]}.json").read_text())
    return content


def row(content: dict[str, Any], table: str, **wanted: str) -> dict[str, Any]:
    rows = next(one["rows"] for one in content["tables"] if one["title"].startswith(table))
    return next(one for one in rows if all(one[key] == value for key, value in wanted.items()))


def test_a_world_of_episodes_is_refused_before_anything_is_sampled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", "views", "opsd", "--task", "doors", "--prompts", "2", "--out", str(tmp_path)]) == 2
    said = "".join(capsys.readouterr())
    assert "task doors is an environment of several turns: a probe looks at single answers" in said
    assert "sampling" not in said


# --- alignment


def test_the_solutions_reader_is_aligned_with_success_on_wrong_rollouts(tmp_path: Path) -> None:
    content = found(tmp_path, "alignment", "opsd", *SMALL, "--completions", "4")
    for loss in ("forward KL", "reverse KL", "JSD ½"):
        cell = row(content, "Alignment A by outcome", loss=loss)["A, wrong rollouts"]
        assert cell["n"] >= 5
        assert cell["estimate"] > 0.8


def test_the_recipes_own_loss_is_the_divergence_it_declares(scene: Scene) -> None:
    nodes = find_nodes(scene, count=3, candidates=5, min_prob=0.01)
    own, declared = nodes.descent["recipe", "its own loss"], nodes.descent["teacher (solution)", "reverse KL"]
    written = scene.scoring.columns.mask.sum(1)[nodes.row]
    weight = scene.scoring.columns.mask.sum() / (len(scene.rollouts) * written)  # a mean of rollouts' means
    assert declared.norm() > 0
    torch.testing.assert_close(own, declared * weight.unsqueeze(1), atol=1e-5, rtol=1e-4)


def test_closed_forms_at_real_nodes_are_what_autograd_finds(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the vocabulary as a top-k support is the full divergence, but has no closed form of its own."""
    everything = replace(scene.recipe, teacher_top_k=scene.learner.policy.vocabulary)
    monkeypatch.setattr(scene.learner.now, "recipe", everything)
    nodes = find_nodes(scene, count=3, candidates=10, min_prob=0.01)
    own, closed = nodes.descent["recipe", "its own loss"], nodes.descent["teacher (solution)", "reverse KL"]
    moved = closed.norm(dim=1) > 1e-3
    assert moved.sum() >= 5
    torch.testing.assert_close(
        torch.nn.functional.normalize(own[moved]),
        torch.nn.functional.normalize(closed[moved]),
        atol=1e-5,
        rtol=0,
    )


def test_a_teacher_that_sees_what_the_student_sees_pulls_nowhere(scene: Scene) -> None:
    nodes = find_nodes(scene, count=3, candidates=5, min_prob=0.01)
    result = alignment.aligned(
        nodes, torch.rand(int(nodes.kept.sum()), 4, dtype=torch.float64, generator=torch.manual_seed(0))
    )
    assert nodes.descent["plain", "reverse KL"].abs().max() < 1e-6
    assert result.score["plain", "reverse KL"].isnan().all()


def test_gradients_at_a_node_only_move_mass_among_its_candidates(scene: Scene) -> None:
    nodes = find_nodes(scene, count=3, candidates=10, min_prob=0.01)
    torch.testing.assert_close(nodes.chance.sum(1), torch.ones(len(nodes.row), dtype=torch.float64))
    assert (nodes.coverage > 0.9).all()
    for pull in nodes.descent.values():
        assert pull.sum(1).abs().max() < 1e-6
        assert (pull[~nodes.kept] == 0).all()


def test_a_teacher_with_nothing_to_see_pulls_nowhere_and_proposes_nothing(scene: Scene) -> None:
    nodes = find_nodes(scene, count=3, candidates=5, min_prob=0.01)
    blind = ~torch.tensor(scene.contexts["sibling"].available)[nodes.row]
    assert blind.any()
    assert not blind.all()
    assert (nodes.descent["sibling", "forward KL"][blind] == 0).all()
    assert nodes.descent["sibling", "forward KL"][~blind].abs().max() > 0


def test_only_nodes_whose_teacher_sees_something_are_pooled(scene: Scene) -> None:
    nodes = find_nodes(scene, count=3, candidates=5, min_prob=0.01)
    seen = torch.tensor(scene.contexts["sibling"].available)[nodes.row].numpy()
    rows = alignment.seen_rows(scene, nodes)
    assert (rows["sibling"] == seen).all()
    assert rows["teacher (solution)"].all()
    draws = torch.Generator().manual_seed(0)
    outcomes = torch.randint(0, 2, (int(nodes.kept.sum()), 8), generator=draws).double()
    result = alignment.aligned(nodes, outcomes)
    groups = np.asarray(scene.groups)[nodes.row.numpy()]
    table = alignment.pooled_table(result, groups, np.ones(len(groups), dtype=bool), rows)
    shown = {one["teacher"]: one["all"] for one in table.rows}
    assert shown["sibling"].n == seen.sum() < shown["recipe"].n == len(seen)


def test_pooled_alignment_is_one_for_the_ideal_gradient_itself_and_free_of_noise(scene: Scene) -> None:
    """Success shares from 8 completions are noisy: their plain cosine with the truth is far below 1."""
    found = find_nodes(scene, count=3, candidates=10, min_prob=0.01)
    nodes = found.take(found.kept.sum(1) >= 8)
    draws = torch.Generator().manual_seed(1)
    chance = torch.rand(nodes.tokens.shape, generator=draws).double() * 0.3 + 0.35
    truth = ideal_gradient(nodes.chance, torch.where(nodes.kept, chance, 0.0))
    every = torch.rand(*nodes.kept.shape, 8, generator=draws) < chance.unsqueeze(-1)
    result = alignment.aligned(nodes, every[nodes.kept].double())
    groups = np.arange(len(nodes.row))
    pooled = alignment.pooled_interval(result, truth, groups, np.ones(len(groups), dtype=bool))
    assert cosine(truth, result.ideal).mean() < 0.7
    assert pooled.estimate == pytest.approx(1, abs=0.25)
    assert pooled.low < 1 < pooled.high


def test_nodes_are_the_positions_of_highest_entropy(scene: Scene) -> None:
    nodes = find_nodes(scene, count=2, candidates=5, min_prob=0.01)
    stats = scene.statistics(1.0, scene.teachers)
    for n in range(len(scene.rollouts)):
        own = stats.entropy()[n][stats.mask[n]]
        steps = nodes.step[nodes.row == n]
        assert set(steps.tolist()) == set(own.topk(2).indices.tolist())


# --- branches


def test_branch_tables_recount_from_the_raw_rows(tmp_path: Path) -> None:
    content = found(tmp_path, "branches", "opsd", *SMALL, "--completions", "2")
    rows = content["rows"]
    assert len(rows) == content["about"]["alternatives tried"] >= 5
    share = row(content, "teacher (solution): share", position="all")["all"]
    assert share["estimate"] == pytest.approx(sum(one["successes"] for one in rows) / (2 * len(rows)))
    assert share["n"] == 2 * len(rows)
    for one in rows:
        assert one["teacher_prob"] >= 0.05
        assert 0 < one["position"] < 1


def test_the_same_words_find_the_same_numbers(tmp_path: Path) -> None:
    words = ["branches", "opsd", *SMALL, "--seed", "3"]
    first, second = found(tmp_path / "a", *words), found(tmp_path / "b", *words)
    assert first["tables"] == second["tables"]
    assert first["rows"] == second["rows"]


# --- views


def test_the_view_of_the_solution_is_worth_most_of_the_accuracy_and_the_bare_one_nothing(
    tmp_path: Path,
) -> None:
    content = found(tmp_path, "views", "opsd", *SMALL, "--per-prompt", "2", "--views", "sibling")
    worth = row(content, "What a view is worth", view="teacher (solution)")
    assert worth["accuracy"]["estimate"] > 0.9
    assert worth["gain"]["estimate"] == pytest.approx(
        worth["accuracy"]["estimate"] - worth["plain, same rows"]["estimate"]
    )
    sibling = row(content, "What a view is worth", view="sibling")
    assert sibling["accuracy"]["n"] == sibling["can see"] * content["about"]["rollouts"]
    far = row(content, "How far it stands", view="teacher (solution)")
    assert far["KL(student‖teacher)"]["estimate"] > 0


def test_the_bare_view_stands_at_distance_zero(tmp_path: Path) -> None:
    content = found(tmp_path, "views", "grpo", *SMALL, "--per-prompt", "2", "--views", "plain")
    far = row(content, "How far it stands", view="plain")
    assert abs(far["KL(teacher‖student)"]["estimate"]) < 1e-6


# --- words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["alignmnt", "opsd"], "alignment"),
        (["branches", "grpo", *SMALL], "--views"),
        (["views", "opsd", *SMALL, "--views", "solutoin"], "solution"),
        (["alignment", "opsd", "--completions", "3"], "even"),
        (["alignment", "opsd", "--lerning-rate", "3"], "--lerning-rate"),
        (["alignment"], "which recipe"),
        ([], "which probe"),
    ],
)
def test_a_users_mistake_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["probe", *words, "--out", str(tmp_path)] if len(words) > 1 else ["probe", *words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("selfteach: ")
    assert said in line


def test_the_probes_are_listed_and_each_explains_its_own_knobs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["probe", "--help"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("alignment", "branches", "views"))
    with pytest.raises(SystemExit) as stop:
        main(["probe", "alignment", "opsd", "--help"])
    assert stop.value.code in (0, None)
    assert "--completions" in capsys.readouterr().out


# --- numbers and page


def hostile() -> Finding:
    cell = Interval(0.5, 0.25, 0.75, 8, 4)
    table = Table(HOSTILE, HOSTILE, [{"view": HOSTILE, HOSTILE: cell, "none": None}])
    seen = Looked(HOSTILE, False, [Token(HOSTILE), Token(HOSTILE, 0)], table)
    return Finding("views", HOSTILE, {HOSTILE: HOSTILE}, [table], [], [seen])


def test_the_page_shows_hostile_text_inert_and_allows_nothing_but_its_style(tmp_path: Path) -> None:
    html = write_page(hostile(), tmp_path).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "<img" not in html
    assert "\u202e" not in html
    assert "\x00" not in html
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    assert policy[1].startswith("default-src &#39;none&#39;; style-src &#39;sha256-")
    assert "script-src" not in policy[1]
    assert not re.search(r"\s(?:src|href|style|on\w+)=\"", html)


def test_what_is_undefined_is_null_in_the_file_and_said_in_the_table(tmp_path: Path) -> None:
    nothing = Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    path = write_numbers(Finding("views", "", {}, [Table("", "", [{"gain": nothing}])]), tmp_path)
    cell = json.loads(path.read_text())["tables"][0]["rows"][0]["gain"]
    assert cell == {"estimate": None, "low": None, "high": None, "n": 0, "clusters": 0}
    assert shown(nothing) == "undefined n=0"
