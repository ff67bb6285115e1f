"""Distillation losses side by side on the same tensors: time, peak memory and gradient error.

    python benchmarks/bench_loss.py                    the default table on this machine's CPU
    python benchmarks/bench_loss.py --device cuda      on a GPU, in bfloat16, with the compiled variants

Each variant goes from hidden states and output matrices to a loss and back to the gradients of the student's
hidden states and output matrix. Times are taken in one process in which the variants take turns, so that a
busy machine troubles all alike; peak memory in a process of its own per variant; errors against float64 on
the first tokens. Every number in results/loss.md is written by this script.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RESULTS = Path(__file__).resolve().parent.parent / "results"
BETA = {"forward_kl": 0.0, "jsd": 0.5, "reverse_kl": 1.0}
"""GKD's β as TRL and Liger read it: 0 is KL(teacher ‖ student), 1 is KL(student ‖ teacher)."""
ERROR_TOKENS = 64


@dataclass(frozen=True)
class Cell:
    """One line of the table: a divergence at a size."""

    divergence: str
    vocabulary: int
    width: int
    tokens: int
    dtype: str
    device: str


@dataclass(frozen=True)
class Tensors:
    """Student states [T, d] and matrix [V, d] with gradient, the teacher's without."""

    hidden: Tensor
    weight: Tensor
    teacher: Tensor
    teacher_weight: Tensor


Loss = Callable[[Tensors, str], Tensor]


def tensors(cell: Cell) -> Tensors:
    """Logits of standard deviation 3, a teacher near the student; filled in place, so the peak stays the loss's."""
    generator = torch.Generator(cell.device).manual_seed(0)
    dtype = getattr(torch, cell.dtype)

    def normal(rows: int, scale: float) -> Tensor:
        empty = torch.empty(rows, cell.width, dtype=dtype, device=cell.device)
        return empty.normal_(0, scale, generator=generator)

    hidden, weight = normal(cell.tokens, 1.0), normal(cell.vocabulary, 3 / cell.width**0.5)
    teacher = normal(cell.tokens, 0.2).add_(hidden)
    teacher_weight = normal(cell.vocabulary, 0.6 / cell.width**0.5).add_(weight)
    return Tensors(hidden.requires_grad_(), weight.requires_grad_(), teacher, teacher_weight)


# --- the variants -----------------------------------------------------------------------------------------------


def full_logits(given: Tensors) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        teacher = given.teacher @ given.teacher_weight.T
    return given.hidden @ given.weight.T, teacher


def naive(given: Tensors, divergence: str) -> Tensor:
    """What one writes first: both models' logits, two log-softmaxes, torch's kl_div."""
    student_logits, teacher_logits = full_logits(given)
    student = wide(student_logits).log_softmax(-1)
    teacher = wide(teacher_logits).log_softmax(-1)
    if divergence == "jsd":
        mixture = torch.logaddexp(student, teacher) - math.log(2)
        loss = (kl(teacher, mixture) + kl(student, mixture)) / 2
    else:
        loss = kl(teacher, student) if divergence == "forward_kl" else kl(student, teacher)
    return loss / len(given.hidden)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Σ KL(p ‖ q) of log-probabilities."""
    return torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum")


def wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def trl_full(given: Tensors, divergence: str) -> Tensor:
    """TRL's GKDTrainer.generalized_jsd_loss on full logits."""
    from trl.experimental.gkd import GKDTrainer

    student, teacher = full_logits(given)
    return GKDTrainer.generalized_jsd_loss(wide(student), wide(teacher), beta=BETA[divergence])


def trl_tiled(given: Tensors, divergence: str) -> Tensor:
    """TRL's vocabulary-tiled divergence, as its DistillationTrainer uses it (Triton on a GPU, torch elsewhere)."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    per_token, _ = ChunkedDivergenceFunction.apply(
        given.hidden, given.weight, None, given.teacher, given.teacher_weight, None, BETA[divergence]
    )
    return per_token.mean()


def liger_chunked(given: Tensors, divergence: str, compiled: bool = False) -> Tensor:
    """Liger's chunked fused linear JSD with its default chunk of 1024 tokens."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=BETA[divergence], compiled=compiled
    )
    labels = torch.zeros(len(given.hidden), dtype=torch.long, device=given.hidden.device)
    return loss(given.hidden, given.weight, given.teacher, given.teacher_weight, labels)


def liger_compiled(given: Tensors, divergence: str) -> Tensor:
    """The same, compiled (its default)."""
    return liger_chunked(given, divergence, compiled=True)


def liger_triton(given: Tensors, divergence: str) -> Tensor:
    """Liger's Triton fused linear JSD. Its β sits where ours does; 0 and 1 are the two KLs."""
    from liger_kernel.transformers import LigerFusedLinearJSD

    loss = LigerFusedLinearJSD(jsd_beta=BETA[divergence])
    return loss(given.hidden, given.weight, given.teacher, given.teacher_weight, None)


def selfteach(given: Tensors, divergence: str, compiler: str | None = None) -> Tensor:
    """This library's engine with its defaults."""
    from selfteach.objective import (
        Columns,
        FromRole,
        Head,
        Match,
        Scored,
        ScoredBatch,
        evaluate_terms,
        make_divergence,
        plan,
    )

    device, tokens = given.hidden.device, len(given.hidden)
    columns = Columns(
        ids=torch.zeros(1, tokens, dtype=torch.long, device=device),
        mask=torch.ones(1, tokens, dtype=torch.bool, device=device),
    )
    roles = {
        "student": Scored(given.hidden[None], Head(given.weight)),
        "teacher": Scored(given.teacher[None], Head(given.teacher_weight)),
    }
    batch = ScoredBatch.padded(columns, roles)
    term = Match(name="match", target=FromRole("teacher"), divergence=make_divergence(divergence))
    return evaluate_terms(batch, plan([term], columns), compiler=compiler).loss


def selfteach_compiled(given: Tensors, divergence: str) -> Tensor:
    """The same with its closed forms compiled by inductor."""
    return selfteach(given, divergence, compiler="inductor")


VARIANTS: dict[str, Loss] = {
    "naive": naive,
    "TRL full logits": trl_full,
    "TRL tiled": trl_tiled,
    "Liger chunked": liger_chunked,
    "Liger compiled": liger_compiled,
    "Liger Triton": liger_triton,
    "selfteach": selfteach,
    "selfteach compiled": selfteach_compiled,
}
ON_CPU = ["naive", "TRL full logits", "TRL tiled", "Liger chunked", "selfteach"]


# --- measuring, in a process of its own -------------------------------------------------------------------------


def gradients(loss: Loss, given: Tensors, divergence: str) -> list[Tensor]:
    return list(torch.autograd.grad(loss(given, divergence), [given.hidden, given.weight]))


def call_once(cell: Cell, variant: str) -> None:
    """Imports and first calls, on tensors that weigh nothing."""
    small = tensors(replace(cell, vocabulary=512, tokens=8))
    gradients(VARIANTS[variant], small, cell.divergence)


def synchronize(cell: Cell) -> None:
    if cell.device == "cuda":
        torch.cuda.synchronize()


def measure_time(cell: Cell, variants: list[str], repeats: int) -> dict[str, Any]:
    """Variant → wall and processor seconds of each round, and the gradients' error."""
    error = gradient_errors(cell, variants)
    given = tensors(cell)
    seconds: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in variants}
    warm_up = 2 if cell.device == "cuda" else 0
    for number in range(warm_up + repeats):
        for name in variants:
            synchronize(cell)
            wall, cpu = time.perf_counter(), time.process_time()
            gradients(VARIANTS[name], given, cell.divergence)
            synchronize(cell)
            if number >= warm_up:
                seconds[name]["wall"].append(time.perf_counter() - wall)
                seconds[name]["cpu"].append(time.process_time() - cpu)
    return {"seconds": seconds, "error": error}


def measure_memory(cell: Cell, variant: str) -> int:
    """Peak bytes of one forward and backward beyond the inputs, the gradients included."""
    given = tensors(cell)
    call_once(cell, variant)
    if cell.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        gradients(VARIANTS[variant], given, cell.divergence)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = process_memory("VmRSS")
    gradients(VARIANTS[variant], given, cell.divergence)
    return process_memory("VmHWM") - before


def process_memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", status)[1])  # type: ignore[index]


def gradient_errors(cell: Cell, variants: list[str]) -> dict[str, float]:
    """Variant → the larger relative error (Frobenius norm) of its gradients against float64, on the first tokens."""
    given = tensors(replace(cell, tokens=ERROR_TOKENS))
    exact = Tensors(*(t.detach().double().requires_grad_(t.requires_grad) for t in vars(given).values()))
    reference = gradients(naive, exact, cell.divergence)
    return {
        name: max(
            float((ours.double() - true).norm() / true.norm())
            for ours, true in zip(gradients(VARIANTS[name], given, cell.divergence), reference, strict=True)
        )
        for name in variants
    }


def worker(task: dict[str, Any]) -> None:
    cell, variants = Cell(**task["cell"]), task["variants"]
    answer: Any
    if task["kind"] == "time":
        answer = measure_time(cell, variants, task["repeats"])
    elif task["kind"] == "memory":
        answer = measure_memory(cell, variants[0])
    else:
        answer = gradient_errors(cell, variants)
    print("ANSWER " + json.dumps(answer))


def in_a_process(kind: str, cell: Cell, variants: list[str], repeats: int = 0) -> Any:
    """A worker's answer, or None with the reason on stderr. Idle threads sleep: cores may be shared."""
    task = {"kind": kind, "cell": asdict(cell), "variants": variants, "repeats": repeats}
    done = subprocess.run(
        [sys.executable, __file__, "--worker", json.dumps(task)],
        capture_output=True,
        text=True,
        env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
    )
    for line in done.stdout.splitlines():
        if line.startswith("ANSWER "):
            return json.loads(line.removeprefix("ANSWER "))
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    print(f"  {kind} of {', '.join(variants)}: {last}", file=sys.stderr)
    return None


# --- the run and its table --------------------------------------------------------------------------------------


def cells(device: str) -> list[Cell]:
    """Sizes that a CPU finishes in minutes; on a GPU the sizes of real runs."""
    if device == "cpu":
        rows = [
            ("jsd", 32_000, 576, 512),
            ("jsd", 49_152, 576, 512),
            ("jsd", 151_936, 576, 512),
            ("jsd", 262_144, 576, 128),
            ("jsd", 151_936, 2048, 128),
            ("forward_kl", 151_936, 576, 1024),
        ]
        return [Cell(*row, dtype="float32", device=device) for row in rows]
    return [
        Cell(divergence, vocabulary, width, tokens, "bfloat16", device)
        for divergence in ("forward_kl", "jsd")
        for vocabulary in (32_000, 49_152, 151_936, 262_144)
        for width, tokens in ((576, 4096), (2048, 4096), (4096, 4096), (2048, 32_768))
    ]


def measure_cell(cell: Cell, variants: list[str], repeats: int) -> list[dict[str, Any]]:
    """One row per variant. What does not run (or fit) in a process of its own is not timed."""
    print(
        f"{cell.divergence} V={cell.vocabulary} d={cell.width} T={cell.tokens} {cell.dtype}", file=sys.stderr
    )
    memory = {name: in_a_process("memory", cell, [name]) for name in variants}
    running = [name for name in variants if memory[name] is not None]
    timed = in_a_process("time", cell, running, repeats) or {"seconds": {}, "error": {}}
    return [
        {"cell": cell, "variant": name, "bytes": memory[name], "error": timed["error"].get(name)}
        | times(timed["seconds"], name)
        for name in variants
    ]


def times(seconds: dict[str, dict[str, list[float]]], name: str) -> dict[str, float]:
    """Median seconds, and the median over rounds of the ratio to naive by either clock."""
    if name not in seconds:
        return {}
    found = {"seconds": statistics.median(seconds[name]["wall"])}
    for clock in ("wall", "cpu") if "naive" in seconds else ():
        rounds = zip(seconds[name][clock], seconds["naive"][clock], strict=True)
        found[clock] = statistics.median(mine / naives for mine, naives in rounds)
    return found


COLUMNS = (
    "",
    "time (s)",
    "× naive (wall)",
    "× naive (processor)",
    "peak (MiB)",
    "naive ÷ this",
    "beyond gradients (MiB)",
    "naive ÷ this",
    "gradient error",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def written(
    rows: list[dict[str, Any]], errors: dict[str, dict[str, float]], facts: list[str], repeats: int
) -> str:
    """The page."""
    lines = [
        "# Distillation losses: time, memory, error",
        "",
        "Written by `benchmarks/bench_loss.py` (`make bench-loss`); its top says what each row is.",
        "",
        *(f"- {fact}" for fact in facts),
        "",
        "Forward and backward, from hidden states to the gradients of the hidden states and the output matrix. "
        f"**Time**: median of {repeats} rounds in which the variants take turns. **× naive**: median of the "
        "rounds' ratios, by the wall and by the process's own processor time (the steadier one on a shared "
        "machine). **Peak**: beyond the inputs, gradients included; **beyond gradients**: less the bytes of the "
        "two gradients, which every variant has to return. **Gradient error**: against float64 on "
        f"{ERROR_TOKENS} tokens, relative Frobenius norm, the larger of the two.",
        "",
    ]
    for cell in dict.fromkeys(r["cell"] for r in rows):
        group = [r for r in rows if r["cell"] == cell]
        title = (
            f"{cell.divergence}, V = {cell.vocabulary:,}, d = {cell.width}, T = {cell.tokens:,}, {cell.dtype}"
        )
        lines += [f"## {title}", "", HEAD, *(table_row(r, group[0]) for r in group), ""]
    if errors:
        lines += [
            "## Gradient error in bfloat16",
            "",
            "Hidden states and matrices in bfloat16 (V = 49,152, d = 576, logits of standard deviation 3); the "
            "reference has the same numbers in float64.",
            "",
            f"| | {' | '.join(errors)} |",
            "|---|" + "---|" * len(errors),
        ]
        for name in next(iter(errors.values())):
            lines.append(f"| {name} | {' | '.join(f'{found[name]:.2%}' for found in errors.values())} |")
        lines.append("")
    return "\n".join([*lines, "![Peak memory and time against the vocabulary](loss.svg)", ""])


def table_row(r: dict[str, Any], first: dict[str, Any]) -> str:
    mine, naives = r["bytes"], first["bytes"]
    itemsize = torch.finfo(getattr(torch, r["cell"].dtype)).bits // 8
    gradient_bytes = itemsize * r["cell"].width * (r["cell"].vocabulary + r["cell"].tokens)
    values = [number(r.get(key), ".2f") for key in ("seconds", "wall", "cpu")]
    for less in (0, gradient_bytes):
        values.append(number(mine and (mine - less) / 2**20, ",.0f"))
        values.append(number(mine and naives and (naives - less) / (mine - less), ".1f"))
    return f"| {r['variant']} | {' | '.join([*values, number(r['error'], '.1e')])} |"


def number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def setting(device: str, seconds: float) -> list[str]:
    if device == "cuda":
        hardware = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    else:
        model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
        hardware = f"{model[1] if model else platform.processor()}, {os.cpu_count()} cores, "
        hardware += f"{torch.get_num_threads()} threads, load average {load} at the end"
    packages = ("torch", "trl", "liger-kernel", "triton", "transformers", "selfteach")
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return [
        f"hardware: {hardware}",
        "versions: "
        + ", ".join([f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]),
        f"command: `python benchmarks/{' '.join(words)}`, {seconds / 60:.0f} minutes, {time.strftime('%Y-%m-%d')}",
    ]


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Peak memory and time of the JSD at the smallest width, a group of bars for each vocabulary."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    shown = [r for r in rows if r["cell"].divergence == "jsd" and r["cell"].width == rows[0]["cell"].width]
    groups = list(dict.fromkeys(r["cell"] for r in shown))
    names = list(dict.fromkeys(r["variant"] for r in shown))
    figure, axes = pyplot.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
    for axis, key, unit, title in zip(
        axes, ("bytes", "wall"), (2**30, 1), ("peak memory (GiB)", "time ÷ naive"), strict=True
    ):
        for number, name in enumerate(names):
            mine = {r["cell"]: r.get(key) for r in shown if r["variant"] == name}
            places = [i + 0.8 * (number + 0.5) / len(names) - 0.4 for i in range(len(groups))]
            axis.bar(places, [(mine[c] or math.nan) / unit for c in groups], 0.8 / len(names), label=name)
        labels = [f"V = {c.vocabulary // 1000}k\nT = {c.tokens}" for c in groups]
        axis.set_xticks(range(len(groups)), labels)
        axis.set_title(title)
    axes[0].set_yscale("log")
    axes[1].axhline(1, color="black", linewidth=0.5)
    axes[0].legend(fontsize="small")
    figure.suptitle(f"JSD, forward and backward, d = {groups[0].width}, {groups[0].dtype}", fontsize="medium")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="default: all that run on the device")
    parser.add_argument(
        "--cells", nargs="+", metavar="LOSS:V:d:T:DTYPE", help="default: a list for the device"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for loss.md and loss.svg")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(json.loads(options.worker))
        return
    variants = options.variants or (ON_CPU if options.device == "cpu" else list(VARIANTS))
    chosen = cells(options.device)
    if options.cells:
        parts = [text.split(":") for text in options.cells]
        chosen = [Cell(p[0], *map(int, p[1:4]), p[4], options.device) for p in parts]  # type: ignore[misc,call-arg]
    start = time.perf_counter()
    rows = [r for cell in chosen for r in measure_cell(cell, variants, options.repeats)]
    errors = {}
    for divergence in () if options.cells else BETA:
        cell = Cell(divergence, 49_152, 576, ERROR_TOKENS, "bfloat16", options.device)
        errors[divergence] = in_a_process("error", cell, variants)
    facts = setting(options.device, time.perf_counter() - start)
    options.out.mkdir(exist_ok=True)
    (options.out / "loss.md").write_text(written(rows, errors, facts, options.repeats), encoding="utf-8")
    plot(rows, options.out / "loss.svg")


if __name__ == "__main__":
    main()
