"""Rollouts by the real vLLM, in this process and by its server, held against the model itself (``make test-engines``).

On a CPU, in float32, with the arena's model; vLLM is in an environment of its own (docs/vllm.md).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from runs import TextRun, run_of
from selfteach.cli.train import configured
from selfteach.policy.checkpoint_weights import checkpoint_weights
from selfteach.policy.draws import Sampling
from selfteach.policy.loading import Policy, load_policy
from selfteach.policy.sampler import LocalSampler
from selfteach.policy.vllm_colocated import ColocatedEngine
from selfteach.policy.vllm_sampler import VllmSampler, log_probs_of
from selfteach.policy.vllm_server import VllmServer
from selfteach.task.arena import model_folder
from selfteach.task.rows import make_task
from selfteach.training.jsonrows import read_rows
from selfteach.training.launch import launch

pytestmark = pytest.mark.slow
pytest.importorskip("vllm", reason="vLLM is in an environment of its own: make test-engines")

CLOSE = 1e-4
"""Nats: other kernels, other orders of summation."""
CLEARING = "/reset_prefix_cache", "/pause?mode=abort"
FOLDER = str(model_folder("table"))
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


class Server:
    """vLLM's server as docs/vllm.md starts it, which can be killed and started again."""

    def __init__(self, folder: str, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.log = folder, log
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = (
            f"--model {self.folder} --host 127.0.0.1 --port {self.port} --dtype float32 --max-model-len 512"
        )
        flags = "--enforce-eager --logprobs-mode processed_logprobs"
        tied = ("--hf-overrides", '{"tie_word_embeddings": false}')
        variables = {
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
        }
        module = "vllm.entrypoints.openai.api_server"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *words.split(), *flags.split(), *tied],
                env={**os.environ, **variables}, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def ready(self) -> None:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
                return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()[-2000:]
                time.sleep(1)
        raise AssertionError(self.log.read_text()[-2000:])

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(FOLDER, tmp_path_factory.mktemp("server") / "log")
    found.start()
    found.ready()
    yield found
    found.kill()


@pytest.fixture(scope="module")
def colocated() -> Iterator[ColocatedEngine]:
    engine = ColocatedEngine(load_policy(FOLDER), "float32")
    yield engine
    engine.close()


@pytest.fixture(params=["colocated", "server"])
def sampler(request: pytest.FixtureRequest) -> VllmSampler:
    """Of the arena's model as it is in its folder."""
    policy = load_policy(FOLDER)
    if request.param == "server":
        engine: VllmServer | ColocatedEngine = VllmServer(request.getfixturevalue("server").url, 60.0)
    else:
        engine = request.getfixturevalue("colocated")
    untied = engine.untied
    found = VllmSampler(policy, engine, lambda: checkpoint_weights(policy, untied=untied), "test")
    push(found)
    return found


def push(sampler: VllmSampler) -> None:
    sampler.sync(sampler.weights_of())


def prompts_of(policy: Policy, count: int = 16) -> list[list[int]]:
    task = make_task("table")
    return [policy.renderer.prompt_ids(task.train(i).prompt, None) for i in range(count)]


def moved(policy: Policy, by: float = 0.02) -> None:
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(by * torch.randn_like(parameter))


def same(ours: VllmSampler, prompts: list[list[int]], sampling: Sampling) -> None:
    """Greedy answers of both, token by token."""
    found = ours.sample(prompts, sampling)
    expected = LocalSampler(ours.policy).sample(prompts, sampling)
    for one, other in zip(found, expected, strict=True):
        assert one.ids == other.ids
        assert one.finished == other.finished
        assert one.behavior == pytest.approx(other.behavior, abs=CLOSE)


def test_greedy_answers_are_the_models_token_by_token(sampler: VllmSampler) -> None:
    prompts = prompts_of(sampler.policy)
    same(sampler, prompts, Sampling(40, 0))
    assert all(one.finished for one in sampler.sample(prompts, Sampling(40, 0)))


def test_an_answer_stops_where_it_must_be_no_longer(sampler: VllmSampler) -> None:
    prompts = prompts_of(sampler.policy)
    same(sampler, prompts, Sampling(5, 0))
    assert all(len(one.ids) == 5 and not one.finished for one in sampler.sample(prompts, Sampling(5, 0)))


@pytest.mark.parametrize("cut", [{}, {"top_p": 0.8}, {"top_k": 2}])
def test_log_probs_are_those_of_the_draw_before_cuts(sampler: VllmSampler, cut: dict[str, float]) -> None:
    policy, prompts = sampler.policy, prompts_of(sampler.policy)
    sampling = Sampling(40, 1.7, **cut)  # type: ignore[arg-type]
    found = sampler.sample(prompts, sampling, keys=[f"row {i}" for i in range(len(prompts))])
    told = log_probs_of(policy, prompts, [one.ids for one in found], 1.7)
    for one, own in zip(found, told, strict=True):
        assert one.behavior == pytest.approx(own, abs=CLOSE)
    assert sum(len(set(one.behavior)) for one in found) > len(prompts)


def test_an_answer_follows_from_its_prompt_and_key(sampler: VllmSampler) -> None:
    prompts = prompts_of(sampler.policy, 8)
    keys = [f"row {i}" for i in range(len(prompts))]
    found = [one.ids for one in sampler.sample(prompts, Sampling(40, 1.2), keys=keys)]
    again = [one.ids for one in sampler.sample(prompts[::-1], Sampling(40, 1.2), keys=keys[::-1])]
    others = [one.ids for one in sampler.sample(prompts, Sampling(40, 1.2), keys=keys[::-1])]
    assert again[::-1] == found
    assert others != found


def test_draws_are_of_the_models_own_distribution(sampler: VllmSampler) -> None:
    """Of 600 first tokens, within five standard errors of the chance of each."""
    prompt, rows, temperature = prompts_of(sampler.policy, 1)[0], 600, 2.0
    found = sampler.sample([prompt] * rows, Sampling(1, temperature), keys=[str(i) for i in range(rows)])
    with torch.no_grad():
        logits = sampler.policy.model(torch.tensor([prompt])).logits[0, -1, : sampler.policy.vocabulary]
    chance = (logits / temperature).softmax(-1)
    counted = torch.bincount(torch.tensor([one.ids[0] for one in found]), minlength=len(chance)) / rows
    error = (chance * (1 - chance) / rows).sqrt()
    assert ((counted - chance).abs() <= 5 * error + 2 / rows).all()


def test_weights_that_are_pushed_arrive(sampler: VllmSampler) -> None:
    policy, probe = sampler.policy, prompts_of(sampler.policy, 1)[0]
    before = sampler.engine.score(probe)
    moved(policy)
    push(sampler)
    after, (own,) = sampler.engine.score(probe), log_probs_of(policy, [probe[:1]], [probe[1:]])
    assert after == pytest.approx(own, abs=CLOSE)
    assert max(abs(a - b) for a, b in zip(after, before, strict=True)) > 0.05
    same(sampler, prompts_of(policy), Sampling(40, 0))


def test_without_a_reset_the_cache_would_answer_by_the_weights_of_before(
    sampler: VllmSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt longer than a block, whose keys and values are kept: this test fails where they are never kept."""
    policy, engine = sampler.policy, sampler.engine
    long = [one for prompt in prompts_of(policy, 20) for one in prompt][:400]
    sampling = Sampling(12, 0)
    same(sampler, [long], sampling)
    moved(policy)
    with monkeypatch.context() as patch:
        if isinstance(engine, ColocatedEngine):
            patch.setattr(engine.llm, "reset_prefix_cache", lambda: True)
        else:
            post = VllmServer.post
            patch.setattr(
                VllmServer,
                "post",
                lambda self, path, body: {"success": True} if path in CLEARING else post(self, path, body),
            )
        push(sampler)
        (stale,) = sampler.sample([long], sampling)
    (own,) = log_probs_of(policy, [long], [stale.ids])
    assert max(abs(a - b) for a, b in zip(own, stale.behavior, strict=True)) > 0.01
    push(sampler)
    (fresh,) = sampler.sample([long], sampling)
    (own,) = log_probs_of(policy, [long], [fresh.ids])
    assert fresh.behavior == pytest.approx(own, abs=CLOSE)


# --- runs ------------------------------------------------------------------------------------------------------------


def words_of(server: Server | None) -> tuple[str, ...]:
    where = ("--vllm-mode", "server", "--vllm-server-base-url", server.url) if server else ()
    return "--use-vllm", *where, "--lr", "0.003"


def settled(row: dict[str, float]) -> None:
    assert row["sampling/logp_difference/max"] < CLOSE
    assert row["sampling/importance_ratio/capped"] == 0
    assert row["sampling/staleness"] == 0


def test_a_run_of_three_steps_by_the_server(server: Server) -> None:
    run = run_of(FOLDER, *words_of(server), "--steps", "3")
    run.learner.preflight()
    for _ in range(3):
        settled(run.stepped())


def test_a_run_of_three_steps_in_one_process(tmp_path: Path) -> None:
    """As a command: an engine of its own, which it lets go of at its end."""
    out = tmp_path / "run"
    words = (
        "train opsd --task table --steps 3 --prompts 4 --max-tokens 24 --eval-problems 0 --samples-every 0"
    )
    done = subprocess.run(
        [sys.executable, "-m", "selfteach", *words.split(), "--out", str(out), *words_of(None), "--device", "cpu"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    rows = [row for row in read_rows(out / "metrics.jsonl") if "loss" in row]
    assert len(rows) == 3
    for row in rows:
        settled(row)


def test_a_server_that_is_killed_in_a_step_is_waited_for_and_given_its_weights(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: TextRun = run_of(FOLDER, *words_of(server), "--steps", "3")
    settled(run.stepped())
    post, asked = VllmServer.post, []

    def dying(self: VllmServer, path: str, body: dict[str, object]) -> object:
        if path == "/v1/completions" and "prompt_logprobs" not in body:
            asked.append(path)
            if len(asked) == 2:
                server.kill()
                server.start()
        return post(self, path, body)

    monkeypatch.setattr(VllmServer, "post", dying)
    settled(run.stepped())
    assert len(asked) > 4  # some were asked again
    settled(run.stepped())


def test_a_run_that_goes_on_pushes_its_weights_first(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["opsd", "--task", "table", "--prompts", "4", "--max-tokens", "24", "--eval-problems", "0"]
    words += ["--samples-every", "0", "--device", "cpu", *words_of(server)]

    class Silent:
        def __getattr__(self, name: str) -> object:
            return lambda *_, **__: None

    for more in (["--steps", "2"], ["--steps", "4", "--resume"]):
        config, where = configured([*words, *more, "--out", str(out)])
        launch(config, Silent, Silent, resume=where.resume, check=False)  # type: ignore[arg-type]
        server.kill()  # what it had is gone
        server.start()
        server.ready()
    rows = [row for row in read_rows(out / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        settled(row)
