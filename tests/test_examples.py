"""The objective alone, in somebody else's loop: what it imports, and that the two examples train."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from arrays import arrays, log_softmax
from selfteach.importing import load_object
from selfteach.studies import study_named
from selfteach.testing import evaluate
from tiny import tiny_model, tiny_model_folder, tiny_tokenizer

EXAMPLES = Path(__file__).parent.parent / "examples"
ALONE = ("bare_loop", "trl_trainer")


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_the_objective_imports_neither_transformers_nor_accelerate() -> None:
    script = (
        "import sys, selfteach.objective\n"
        "heavy = {'transformers', 'accelerate', 'peft', 'tokenizers', 'datasets', 'tyro', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_objective_lists_its_public_names() -> None:
    import selfteach.objective as objective

    assert all(hasattr(objective, name) for name in objective.__all__)
    assert {"ScoredBatch", "Head", "Match", "evaluate_terms", "plan", "DIVERGENCES"} <= set(objective.__all__)


@pytest.mark.parametrize("name", ALONE)
def test_an_example_is_at_most_twenty_statements(name: str) -> None:
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
    started = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    statements = [
        node
        for part in started
        for node in ast.walk(part)
        if isinstance(node, ast.stmt)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    assert len(statements) <= 20


def test_the_bare_loop_brings_the_student_to_its_hinted_self(tmp_path: Path) -> None:
    torch.manual_seed(0)
    train = example("bare_loop")["train"]
    losses = list(train(tiny_model_folder(tmp_path), "2+2=", "It is 4. ", steps=12, lr=3e-3))
    assert all(loss > 0 for loss in losses)
    assert sum(losses[-3:]) < sum(losses[:3]) / 4


def trl_trainer(folder: Path) -> Any:
    """The example's trainer over two tiny models that differ."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    if not hasattr(trl, "DistillationTrainer"):
        pytest.skip("this trl has no DistillationTrainer")
    tokenizer = tiny_tokenizer()
    settings = trl.DistillationConfig(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        max_steps=2,
        learning_rate=1e-3,
        max_completion_length=6,
        beta=0.5,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    return example("trl_trainer")["ChunkedTrainer"](
        model=tiny_model(len(tokenizer), seed=0),
        teacher_model=tiny_model(len(tokenizer), seed=1),
        args=settings,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["2+2=", "What is 3+4?"] * 4}),
        processing_class=tokenizer,
    )


def test_the_trl_example_trains(tmp_path: Path) -> None:
    trainer = trl_trainer(tmp_path)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    assert trainer.train().training_loss > 0
    assert any((weight != before[name]).any() for name, weight in trainer.model.named_parameters())


def test_on_the_full_vocabulary_the_trl_example_has_trls_own_loss(tmp_path: Path) -> None:
    from selfteach.objective import Full

    trainer = trl_trainer(tmp_path)
    trainer.support = Full()
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "prompt_ids": torch.randint(4, 50, (2, 5), generator=generator),
        "prompt_mask": torch.ones(2, 5, dtype=torch.long),
        "completion_ids": torch.randint(4, 50, (2, 6), generator=generator),
        "completion_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]),
        "num_items_in_batch": torch.tensor(9),
    }
    gradients = []
    for kind in (type(trainer), type(trainer).__base__):
        trainer.model.zero_grad()
        loss = kind.compute_loss(trainer, trainer.model, dict(inputs))
        loss.backward()
        gradients.append((loss.detach(), trainer.model.get_output_embeddings().weight.grad.clone()))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def dpo_loss(given: dict[str, Any], beta: float) -> float:
    """Eq. 7 of arXiv 2305.18290 on the pairs of ``arrays()``: in group 0 row 0 is right, in group 1 rows 3 and 4."""
    sums = []
    for logits in (given["student_logits"], given["teacher_logits"]["reference"]):
        taken = np.take_along_axis(log_softmax(logits), given["ids"][..., None], -1)[..., 0]
        sums.append((taken * given["mask"]).sum(1))
    gained = beta * (sums[0] - sums[1])
    return float(np.mean([np.log1p(np.exp(-(gained[good] - gained[bad]))) for good, bad in ((0, 1), (3, 5))]))


def test_a_method_from_outside_is_exact_to_its_paper() -> None:
    kind = load_object(f"{EXAMPLES / 'dpo.py'}:DPO")
    given = arrays(teachers=("reference",))
    out = evaluate(kind(beta=0.3), given)
    assert out["loss"] == pytest.approx(dpo_loss(given, 0.3), rel=1e-12)
    at, step, values = (3, 2, 5), 1e-6, []
    for move in (step, -2 * step):
        given["student_logits"][at] += move
        values.append(dpo_loss(given, 0.3))
    assert out["grad"][at] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_a_batch_without_a_pair_has_no_dpo_loss() -> None:
    kind = load_object(f"{EXAMPLES / 'dpo.py'}:DPO")
    given = arrays(teachers=("reference",))
    out = evaluate(kind(), {**given, "reward": np.zeros(6)})
    assert out["loss"] == 0
    assert (out["grad"] == 0).all()


def test_a_method_from_outside_has_a_study_and_at_most_sixty_lines() -> None:
    study = study_named(f"{EXAMPLES / 'dpo.py'}:STUDY")
    assert [*study.claims[0].variants] == ["dpo", "grpo"]
    text = (EXAMPLES / "dpo.py").read_text(encoding="utf-8")
    words = {n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Expr)}
    skipped = {
        line
        for value in words
        if isinstance(value, ast.Constant)
        for line in range(value.lineno, (value.end_lineno or value.lineno) + 1)
    }
    lines = [line for i, line in enumerate(text.splitlines(), start=1) if line.strip() and i not in skipped]
    assert len(lines) <= 60


def cells(name: str, **changed: str) -> list[str]:
    """The cells of an example, with the values of some of its settings changed."""
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    for setting, value in changed.items():
        text, count = re.subn(rf"(?m)^(    {setting}=).*(,)$", rf"\g<1>{value}\g<2>", text)
        assert count == 1, setting
    return re.split(r"(?m)^# %%.*$", text)


def test_the_notebook_like_example_runs_in_a_notebook_and_shows_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sources = cells("forty_rows", steps="2", prompts="2", eval_problems="2")
    sources[-1] = sources[-1].replace("problems=64", "problems=4")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in sources])
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [
        out.get("data", {}).get("text/html", "") + out.get("text", "")
        for cell in notebook.cells
        for out in cell.outputs
    ]
    assert any("<progress value='2' max='2'>" in out for out in outputs)
    shown = next(out for out in outputs if "selfteach-run" in out)
    assert "<svg" in shown
    assert 'href="./runs/forty-rows/report.html"' in shown
    assert any("on tutor, 4 problems: accuracy" in out for out in outputs)
    assert (tmp_path / "runs/forty-rows/model/model.safetensors").is_file()
