"""Rollouts by a vLLM server: what is asked, what is believed, and what becomes of a run whose server is not well.

The server here speaks as vLLM does, with a model of its own behind it; tests/test_engines.py has the real one.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import TextRun, run_of, weights
from selfteach.cli.train import configured
from selfteach.errors import UserError
from selfteach.policy.checkpoint_weights import checkpoint_weights
from selfteach.policy.draws import Sampling
from selfteach.policy.loading import LoraConfig, Policy, load_policy
from selfteach.policy.sampler import LocalSampler
from selfteach.policy.vllm_sampler import Completion, Request, VllmSampler, seed_of, wrong_with
from selfteach.policy.vllm_server import VllmServer
from selfteach.training.launch import table_of
from tiny import tiny_model_folder
from vllm_server import BROKEN, Told, Vllm, serving

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16]]


def words_of(url: str, *more: str) -> tuple[str, ...]:
    return "--use-vllm", "--vllm-mode", "server", "--vllm-server-base-url", url, "--lr", "0.01", *more


def sampler_of(policy: Policy, url: str, seconds: float = 5.0) -> VllmSampler:
    found = VllmSampler(policy, VllmServer(url, seconds), lambda: checkpoint_weights(policy), "test")
    found.sync(checkpoint_weights(policy))
    return found


def moved(policy: Policy) -> None:
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


# --- what is asked, and what is believed ----------------------------------------------------------------------------


def test_an_answer_follows_from_its_prompt_and_key(tiny: str) -> None:
    policy, sampling = load_policy(tiny), Sampling(12, 0.7)
    with serving(Vllm(tiny)) as url:
        sampler = sampler_of(policy, url)
        found = sampler.sample(PROMPTS, sampling, keys=["a", "b", "c"])
        again = sampler.sample(PROMPTS[::-1], sampling, keys=["c", "b", "a"])
    assert [one.ids for one in again[::-1]] == [one.ids for one in found]
    expected = LocalSampler(policy).sample(PROMPTS, sampling, keys=[str(seed_of(k)) for k in "abc"])
    assert [one.ids for one in found] == [one.ids for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.behavior == pytest.approx(other.behavior, abs=1e-5)
        assert one.finished == other.finished


def test_a_request_says_all_that_a_server_may_have_other_defaults_of(tiny: str) -> None:
    policy, vllm = load_policy(tiny), Vllm(tiny)
    with serving(vllm) as url:
        sampler_of(policy, url).sample(PROMPTS[:1], Sampling(3, 0.7, 0.9, 5), keys=["a"])
    asked = [body for body in vllm.bodies if "stop_token_ids" in body]
    rows = policy.model.get_output_embeddings().weight.shape[0]
    assert asked == [
        {
            "model": tiny, "prompt": PROMPTS[0], "max_tokens": 3, "temperature": 0.7, "top_p": 0.9, "top_k": 5,
            "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
            "seed": seed_of("a"), "ignore_eos": True, "stop_token_ids": sorted(policy.renderer.stop_ids),
            "logit_bias": {str(one): -100.0 for one in range(policy.vocabulary, rows)}, "logprobs": 0,
            "return_token_ids": True,
        }
    ]  # fmt: skip
    assert rows > policy.vocabulary


def test_behind_a_cut_the_policy_scores_anew(tiny: str) -> None:
    """The server's log-probs there are those of what it drew from, which was renormalized."""

    class Renormalized(Vllm):
        def completion(self, ids: list[int], log_probs: list[float]) -> Told:
            return super().completion(ids, [0.0 for _ in ids])

    policy, sampling = load_policy(tiny), Sampling(12, 0.7, top_p=0.5)
    with serving(Renormalized(tiny)) as url:
        found = sampler_of(policy, url).sample(PROMPTS, sampling, keys=["a", "b", "c"])
        greedy = sampler_of(policy, url).sample(PROMPTS, Sampling(12, 0, top_p=0.5))
    expected = LocalSampler(policy).sample(PROMPTS, sampling, keys=[str(seed_of(k)) for k in "abc"])
    for one, other in zip(found, expected, strict=True):
        assert one.behavior == pytest.approx(other.behavior, abs=1e-5)
    assert all(set(one.behavior) == {0.0} for one in greedy)


@pytest.mark.parametrize("temperature", [0.001, 2.5])
def test_a_temperature_that_vllm_would_not_sample_at_is_refused(tiny: str, temperature: float) -> None:
    with serving(Vllm(tiny)) as url, pytest.raises(UserError, match=r"vLLM samples at 0\.01 to 2"):
        sampler_of(load_policy(tiny), url).sample(PROMPTS, Sampling(4, temperature))


def test_seeds_are_63_bits_and_differ() -> None:
    seeds = {seed_of(f"row {i}") for i in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= one < 2**63 for one in seeds)
    assert max(seeds) > 2**60


@pytest.mark.parametrize(
    ("ids", "log_probs", "told"),
    [
        ([5, 6, 3], [-1, -1, -1], None),
        ([5, 6, 7, 8], [-1, -1, -1, -1], None),
        ([5, 6, 7], [-1, -1, -1], "3 tokens without a stop token, where 4"),
        ([], [], "0 tokens without"),
        ([5, 6, 7, 8, 9], [-1] * 5, "5 tokens without"),
        ([5, 6, 3], [-1, -1], "3 tokens with 2 log-probs"),
        ([5, 3, 6], [-1, -1, -1], "behind its stop token"),
        ([5, 20, 3], [-1, -1, -1], "tokenizer of 20 lacks"),
        ([5, -1, 3], [-1, -1, -1], "tokenizer of 20 lacks"),
        ([5, 6, 3], [-1, 0.1, -1], "a log-prob that is none"),
        ([5, 6, 3], [-1, math.nan, -1], "a log-prob that is none"),
        ([5, 6, 3], [-1, -math.inf, -1], "a log-prob that is none"),
    ],
)
def test_what_is_no_answer_is_told(ids: list[int], log_probs: list[float], told: str | None) -> None:
    found = wrong_with(Request([1], Sampling(4), 0, (3,)), Completion(ids, log_probs), 20)
    assert (found is None) if told is None else (found is not None and told in found)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda ids, log_probs: (ids[:-1], log_probs[:-1]), "without a stop token"),
        (lambda ids, log_probs: (ids, log_probs[:-1]), "log-probs"),
        (lambda ids, log_probs: ([999, *ids[1:]], log_probs), "another model"),
        (lambda ids, log_probs: (list(map(str, ids)), log_probs), "gives no token ids"),
        (lambda ids, log_probs: (None, log_probs), "gives no token ids"),
    ],
)
def test_a_server_that_gives_less_than_asked_ends_the_run_in_one_line(
    tiny: str, change: Any, told: str
) -> None:
    class Less(Vllm):
        def completion(self, ids: list[int], log_probs: list[float]) -> Told:
            return super().completion(*change(ids, log_probs))

    with serving(Less(tiny)) as url, pytest.raises(UserError, match=told):
        run_of(tiny, *words_of(url)).stepped()


@pytest.mark.parametrize(
    "garbage", [(200, b"<html>hello</html>"), (200, b"\xff\xfe"), (200, {"choices": []}), (200, [1])]
)
def test_garbage_ends_the_run_in_one_line(tiny: str, garbage: Told) -> None:
    class Garbage(Vllm):
        def completions(self, body: dict[str, Any]) -> Told:
            return super().completions(body) if "prompt_logprobs" in body else garbage

    with serving(Garbage(tiny)) as url, pytest.raises(UserError, match="is it vLLM"):
        run_of(tiny, *words_of(url)).stepped()


# --- weights --------------------------------------------------------------------------------------------------------


def test_weights_go_before_each_step_and_the_cache_after_them(tiny: str) -> None:
    vllm = Vllm(tiny)
    with serving(vllm) as url:
        run = run_of(tiny, *words_of(url))
        rows = [run.stepped(), run.stepped()]
        trained = weights(run)
        assert any(
            not torch.equal(value, trained[name]) for name, value in vllm.policy.model.named_parameters()
        )
        run.learner.push()
        for name, value in vllm.policy.model.named_parameters():
            torch.testing.assert_close(value, trained[name], rtol=0, atol=0)
    assert vllm.calls.count("/collective_rpc") == 3
    before = [i for i, path in enumerate(vllm.calls) if path == "/collective_rpc"]
    assert all(
        vllm.calls[i - 1 : i + 4]
        == [
            "/pause?mode=abort",
            "/collective_rpc",
            "/reset_prefix_cache",
            "/resume",
            "/update_weight_version",
        ]
        for i in before
    )
    for row in rows:
        assert row["sampling/logp_difference/max"] < 1e-4
        assert row["sampling/importance_ratio/mean"] == pytest.approx(1, abs=1e-4)
        assert row["sampling/staleness"] == 0


def test_staleness_counts_the_updates_since_a_rollout_was_written(tiny: str) -> None:
    with serving(Vllm(tiny)) as url:
        run = run_of(tiny, *words_of(url, "--minibatches", "2", "--update-epochs", "2"))
        assert run.stepped()["sampling/staleness"] == (0 + 1 + 2 + 3) / 4
        assert run.stepped()["sampling/staleness"] == (0 + 1 + 2 + 3) / 4


def test_it_learns_what_it_learns_without(tiny: str) -> None:
    """The answers are those of the model itself under other keys: a run whose keys are these is the same run."""
    with serving(Vllm(tiny)) as url, pytest.MonkeyPatch.context() as patch:
        own = run_of(tiny, *words_of(url))
        row = own.stepped()
        whole = LocalSampler.sample

        def sample(self: LocalSampler, prompts: Any, sampling: Any, *, keys: Any = None, **more: Any) -> Any:
            return whole(
                self,
                prompts,
                sampling,
                keys=None if keys is None else [str(seed_of(k)) for k in keys],
                **more,
            )

        patch.setattr(LocalSampler, "sample", sample)
        plain = run_of(tiny, "--lr", "0.01")
        expected = plain.stepped()
    assert [one.ids for one in own.batch.rows] == [one.ids for one in plain.batch.rows]
    for name in ("loss", "grad_norm", "length/mean", "divergence/teacher"):
        assert row[name] == pytest.approx(expected[name], rel=1e-3), name


def test_an_adapter_is_pushed_merged(tiny: str, tmp_path: Path) -> None:
    policy = load_policy(tiny, lora=LoraConfig(rank=2))
    moved(policy)
    found = checkpoint_weights(policy)
    policy.save(tmp_path, merge=True)
    expected = load_policy(str(tmp_path)).model.state_dict()
    assert set(found) == set(expected) - {"lm_head.weight"}
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])
    vllm = Vllm(tiny)
    with serving(vllm) as url:
        run = run_of(tiny, *words_of(url, "--lora-rank", "2", "--lr", "0.1"))
        run.stepped()
        assert run.stepped()["sampling/logp_difference/max"] < 1e-3  # of weights that have moved far


def test_a_tied_head_is_there_under_its_own_name_where_the_engine_keeps_one(tiny: str) -> None:
    policy = load_policy(tiny)
    assert "lm_head.weight" not in checkpoint_weights(policy)
    untied = checkpoint_weights(policy, untied=True)
    torch.testing.assert_close(untied["lm_head.weight"], untied["model.embed_tokens.weight"])


def test_a_stage_that_goes_on_pushes_first(tiny: str) -> None:
    """What a run is given back (a checkpoint) is not what the server has."""
    vllm = Vllm(tiny)
    with serving(vllm) as url:
        run = run_of(tiny, *words_of(url))
        run.stepped()
        moved(run.learner.policy)
        run.learner.load_state(run.learner.state())
        vllm.calls.clear()
        row = run.stepped()
    assert vllm.calls.index("/collective_rpc") < vllm.calls.index("/v1/completions")
    assert row["sampling/logp_difference/max"] < 1e-4


# --- weights that do not arrive, and other models -------------------------------------------------------------------


class Deaf(Vllm):
    """Says that it has the weights, and has not."""

    def collective_rpc(self, body: dict[str, Any]) -> Told:
        return 200, {"results": [None]}


def test_weights_that_do_not_arrive_end_the_run_in_one_line(tiny: str) -> None:
    with serving(Deaf(tiny)) as url:
        run = run_of(tiny, *words_of(url))
        run.stepped()  # with what the folder has
        with pytest.raises(UserError, match="the weights have not arrived at the vLLM server"):
            run.stepped()


def test_weights_that_moved_little_are_missed_too(tiny: str) -> None:
    with serving(Deaf(tiny)) as url:
        run = run_of(tiny, *words_of(url, "--lr", "3e-5"))
        run.stepped()
        with pytest.raises(
            UserError, match="what it said before, though the model's log-probs have moved by"
        ):
            run.stepped()


def test_a_server_that_keeps_what_it_knew_of_prompts_is_asked_again_and_then_refused(tiny: str) -> None:
    class Keeps(Vllm):
        def reset_prefix_cache(self, body: dict[str, Any]) -> Told:
            return 200, {"success": False}

    vllm = Keeps(tiny)
    with serving(vllm) as url, pytest.raises(UserError, match="3 times while weights were pushed"):
        run_of(tiny, *words_of(url)).stepped()
    assert vllm.calls.count("/reset_prefix_cache") == 3


def test_a_server_of_other_weights_has_the_right_ones_after_the_first_push(tiny: str, tmp_path: Path) -> None:
    with serving(Vllm(str(tiny_model_folder(tmp_path / "m", seed=1)))) as url:
        run = run_of(tiny, *words_of(url))
        assert run.stepped()["sampling/logp_difference/max"] < 1e-4


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"width": 96}, "cannot take the trained weights"),
        ({"layers": 1}, "have not arrived|cannot take"),
    ],
)
def test_a_server_of_another_model_is_refused(
    tiny: str, tmp_path: Path, other: dict[str, Any], told: str
) -> None:
    class Loose(Vllm):
        def collective_rpc(self, body: dict[str, Any]) -> Told:
            try:
                return super().collective_rpc(body)
            except AssertionError:
                return 500, {"error": {"message": "unknown weights"}}

    vllm = Loose(str(tiny_model_folder(tmp_path / "m", **other)))
    with serving(vllm) as url, pytest.raises(UserError, match=told):
        run_of(tiny, *words_of(url)).stepped()


def test_a_server_of_another_tokenizer_is_refused_by_its_ids(tiny: str) -> None:
    class Other(Vllm):
        def tokenize(self, body: dict[str, Any]) -> Told:
            status, told = super().tokenize(body)
            return status, {"tokens": told["tokens"][::-1]}

    with serving(Other(tiny)) as url, pytest.raises(UserError, match="other token ids of a prompt"):
        run_of(tiny, *words_of(url)).stepped()


def test_a_server_of_a_smaller_vocabulary_is_refused(tiny: str) -> None:
    class Smaller(Vllm):
        def start(self) -> None:
            super().start()
            self.policy = replace(self.policy, vocabulary=self.policy.vocabulary - 1)

    with serving(Smaller(tiny)) as url, pytest.raises(UserError, match="does not know token"):
        run_of(tiny, *words_of(url)).stepped()


def test_a_server_that_notes_other_log_probs_is_refused(tiny: str) -> None:
    with (
        serving(Vllm(tiny, mode="raw_logprobs")) as url,
        pytest.raises(UserError, match="processed_logprobs"),
    ):
        run_of(tiny, *words_of(url)).stepped()


def test_a_server_on_a_cpu_must_keep_a_tied_head_apart(tiny: str) -> None:
    with serving(Vllm(tiny, device="cpu")) as url, pytest.raises(UserError, match="--hf-overrides"):
        run_of(tiny, *words_of(url)).stepped()
    vllm = Vllm(tiny, device="cpu", untied=True)
    with serving(vllm) as url:
        run_of(tiny, *words_of(url)).stepped()


def test_a_server_without_its_calls_for_weights_is_refused(tiny: str) -> None:
    class Plain(Vllm):
        def server_info(self, body: dict[str, Any]) -> Told:
            return 404, {"detail": "Not Found"}

    with serving(Plain(tiny)) as url, pytest.raises(UserError, match="VLLM_SERVER_DEV_MODE=1"):
        run_of(tiny, *words_of(url)).stepped()


# --- servers that go away -------------------------------------------------------------------------------------------


@dataclass
class Dying(Vllm):
    """Dies at its ``at``-th answer, is away for some looks, and comes back with the weights that its folder has."""

    at: int = 0
    away: int = 4

    def health(self, body: dict[str, Any]) -> Told:
        if self.at < 0 and self.away:
            self.away -= 1
            return BROKEN
        return super().health(body)

    def completions(self, body: dict[str, Any]) -> Told:
        if "prompt_logprobs" in body:
            return super().completions(body)
        self.at -= 1
        if self.at < 0:
            if self.version != "default" and self.away:
                self.start()
            if self.away:
                return BROKEN
        return super().completions(body)


@pytest.mark.parametrize("at", [5, 6, 7])
def test_a_server_that_is_restarted_in_a_step_is_waited_for_and_given_its_weights(tiny: str, at: int) -> None:
    plain, dying = Vllm(tiny), Dying(tiny, at=at)
    with serving(plain) as url, serving(dying) as other:
        runs = [run_of(tiny, *words_of(one)) for one in (url, other)]
        for run in runs:
            rows = [run.stepped(), run.stepped()]
            assert all(row["sampling/logp_difference/max"] < 1e-4 for row in rows)
    assert dying.away == 0
    assert dying.calls.count("/collective_rpc") == 1 + plain.calls.count("/collective_rpc")
    for one, two in zip(*map(weights, runs), strict=True):
        torch.testing.assert_close(weights(runs[0])[one], weights(runs[1])[two], rtol=0, atol=0)


def test_a_server_that_was_restarted_between_two_requests_is_noticed(tiny: str) -> None:
    """All its answers came, some of them by the old weights."""

    class Sly(Vllm):
        left = 7

        def completions(self, body: dict[str, Any]) -> Told:
            if "prompt_logprobs" not in body:
                self.left -= 1
                if self.left == 0:
                    self.start()
            return super().completions(body)

    vllm = Sly(tiny)
    with serving(vllm) as url:
        run = run_of(tiny, *words_of(url))
        rows = [run.stepped(), run.stepped()]
    assert all(row["sampling/logp_difference/max"] < 1e-4 for row in rows)
    assert vllm.calls.count("/collective_rpc") == 3


def test_a_server_that_stays_away_ends_the_run_in_one_line_within_its_bound(tiny: str) -> None:
    run: TextRun
    with serving(Vllm(tiny)) as url:
        run = run_of(tiny, *words_of(url, "--vllm-server-timeout", "1"))
        run.stepped()
    began = time.monotonic()
    with pytest.raises(UserError, match=r"has not answered for 1 s .*: start it"):
        run.stepped()
    assert time.monotonic() - began < 20


def test_a_server_that_is_too_slow_ends_the_run_in_one_line(tiny: str) -> None:
    class Slow(Vllm):
        slow = False

        def before(self, path: str) -> None:
            if self.slow and path == "/v1/completions":
                time.sleep(1)

    vllm = Slow(tiny)
    with serving(vllm) as url:
        sampler = sampler_of(load_policy(tiny), url, seconds=0.5)
        vllm.slow = True
        with pytest.raises(UserError, match="left all of 3 requests unanswered 3 times"):
            sampler.sample(PROMPTS, Sampling(4), keys=["a", "b", "c"])


def test_a_server_that_is_slow_once_is_asked_again(tiny: str) -> None:
    class Slow(Vllm):
        left = 2

        def before(self, path: str) -> None:
            if path == "/v1/completions":
                self.left -= 1
                if self.left == 0:
                    time.sleep(1)

    policy = load_policy(tiny)
    with serving(Vllm(tiny)) as url, serving(Slow(tiny)) as other:
        found = [
            sampler_of(policy, one, seconds=0.5).sample(PROMPTS, Sampling(4), keys=["a", "b", "c"])
            for one in (url, other)
        ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("url", "told"),
    [("localhost:8000", "is no address"), ("http://me:secret@localhost:8000", "name or password")],
)
def test_an_address_that_is_none_is_refused(url: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        VllmServer(url, 1.0)


# --- settings -------------------------------------------------------------------------------------------------------


def test_without_vllm_one_line_says_what_to_install(tiny: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selfteach.policy.vllm_colocated.find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install 'selfteach\[vllm\]'"):
            run_of(tiny, "--use-vllm").stepped()


def test_settings_of_a_vllm_that_is_not_used_are_refused(tiny: str) -> None:
    with pytest.raises(UserError, match="add --use-vllm"):
        run_of(tiny, "--vllm-mode", "server")


def test_a_recipe_that_samples_nothing_says_so_and_asks_no_server(tiny: str) -> None:
    run = run_of(tiny, *words_of("http://localhost:9"), recipe="sft")
    run.stepped()
    assert any("use_vllm: recipe sft samples nothing" in one for one in run.progress.said)


def test_a_record_names_vllm_only_where_it_is_used(tiny: str) -> None:
    def table(*words: str) -> dict[str, Any]:
        return table_of(configured(["opsd", "--task", "table", "--model", tiny, *words])[0])

    assert "vllm" not in table()
    assert table("--use-vllm", "--vllm-mode", "server")["vllm"]["vllm_mode"] == "server"


def test_the_cap_of_importance_weights_is_vllms_too(tiny: str) -> None:
    with serving(Vllm(tiny)) as url:
        run = run_of(tiny, *words_of(url, "--importance-sampling-cap", "3"))
        run.stepped()
    assert run.batch.sampler_cap == 3
