"""How many rows go through a model at once: bounded by memory, never by luck."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runs import run_of
from selfteach.policy import room as rooms
from selfteach.policy.draws import Sampling
from selfteach.policy.room import (
    Footprint,
    Room,
    batches,
    behind,
    footprint,
    memory_limit,
    read_behind,
    room_of,
)
from selfteach.policy.sampler import LocalSampler
from selfteach.roles.weights import External
from selfteach.training.text import batch as text_batch
from selfteach.training.text.batch import Scoring
from tiny import tiny_model, tiny_model_folder

NEEDS = Footprint(cached=100, drawn=1000, read=50, trained=400)


@given(
    st.lists(st.integers(1, 300), max_size=40),
    st.integers(1, 50),
    st.integers(0, 500),
    st.integers(1, 20000),
    st.none() | st.integers(1, 9),
)
def test_every_row_comes_once_and_in_order_and_a_batch_fits_or_is_a_single_row(
    lengths: list[int], token: int, row: int, memory: int, most: int | None
) -> None:
    parts = list(batches(lengths, token, row, memory, most))
    assert [i for part in parts for i in part] == list(range(len(lengths)))
    for part in parts:
        cost = len(part) * (token * max(lengths[i] for i in part) + row)
        assert len(part) == 1 or (len(part) <= most if most else cost <= memory)
    assert [len(part) for part in batches([1] * 2500, 1, 0, 10**9)] == [1024, 1024, 452]


def test_a_batch_is_no_smaller_than_it_must_be() -> None:
    parts = list(batches([10] * 7, 10, 0, 300))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert [len(part) for part in batches([10, 10, 30, 1, 1], 10, 0, 300)] == [2, 1, 2]


def test_sampling_counts_the_cache_of_prompt_and_answer_and_the_logits_of_a_row() -> None:
    # 20-token prompts, 30 new: 20 · 150 + 30 · 100 + 1000 = 7000 bytes a row.
    assert [len(part) for part in Room(21000, NEEDS).sampling([20] * 5, 30)] == [3, 2]
    assert [len(part) for part in Room(20999, NEEDS).sampling([20] * 5, 30)] == [2, 2, 1]
    assert [len(part) for part in Room(1, NEEDS).sampling([20] * 5, 30, most=4)] == [4, 1]


def test_scoring_with_gradient_takes_what_a_layer_keeps() -> None:
    room = Room(40_000, NEEDS)
    assert [len(part) for part in room.scoring([50] * 5, gradient=True)] == [2, 2, 1]
    assert [len(part) for part in room.scoring([50] * 20)] == [16, 4]


def test_the_footprint_of_a_model_is_read_from_its_config() -> None:
    model = tiny_model(100)
    c = model.config
    found = footprint(model)
    assert found.cached == 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 4
    part = footprint(model, checkpointing="selective").trained
    assert found.trained > part > footprint(model, checkpointing="full").trained > found.read > 0
    assert found.drawn == 5 * c.vocab_size * 4


def test_the_room_is_a_power_of_two_within_what_the_weights_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(1000, 1000, bias=False)
    model.config = tiny_model(100).config  # type: ignore[assignment]
    weights = 4 * 1000 * 1000 * 4
    room = room_of(model, limit=weights + 2**30)
    assert room.memory == 2**28  # a quarter, rounded down, not half of 2³⁰
    assert room_of(model, limit=2**26).memory == rooms.LEAST
    monkeypatch.setattr(rooms, "memory_limit", lambda device: weights + 2**30)
    assert room_of(model).memory == room.memory


def test_a_container_s_limit_and_the_processes_beside_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rooms, "container_limits", lambda: [2**32])
    assert memory_limit() == 2**32
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory_limit() == 2**30


def test_ten_thousand_prompts_are_sampled_in_batches_that_fit(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = run_of(tiny).learner.policy
    needs = policy.room.needs
    policy = replace(policy, room=Room(64 * (20 * (needs.cached + needs.read) + needs.drawn), needs))
    widths: list[int] = []
    plain = LocalSampler._batch
    monkeypatch.setattr(
        LocalSampler,
        "_batch",
        lambda self, prompts, *rest: widths.append(len(prompts)) or plain(self, prompts, *rest),
    )
    told: list[float] = []
    found = LocalSampler(policy, told.append).sample([[5, 6, 7]] * 1000, Sampling(max_tokens=2))
    assert len(found) == 1000
    assert max(widths) < 400
    assert len(widths) > 2
    assert told == sorted(told)
    assert 0 <= told[0] < told[-1] < 1


def test_micro_batches_follow_the_rows_of_what_is_trained(tiny: str) -> None:
    learner = run_of(tiny).learner
    batch = learner.collect(0)
    scoring: Scoring = batch.scoring
    assert scoring.parts() == [tuple(range(len(scoring.rows)))]
    policy = learner.policy
    lengths = [len(one.prompt_ids) + len(one.ids) for one in scoring.rows]
    policy.room.memory = 2 * max(lengths) * policy.room.needs.trained
    parts = scoring.parts()
    assert len(parts) > 1
    assert max(map(len, parts)) <= max(2, len(scoring.rows) // 2)
    for part in parts:
        width = max(lengths[i] for i in part)
        assert len(part) == 1 or len(part) * width * policy.room.needs.trained <= policy.room.memory


@pytest.mark.parametrize(
    ("context", "response", "rows", "tokens"),
    [(400, 100, 8, 100 + 84 + 50), (400, 100, 1, 500), (10, 500, 2, 510), (0, 0, 3, 0), (6, 0, 6, 2)],
)
def test_a_row_that_shares_its_context_takes_part_of_its_memory(
    context: int, response: int, rows: int, tokens: int
) -> None:
    assert behind(context, response, rows) == tokens


@pytest.mark.parametrize(
    ("context", "response", "rows", "tokens"), [(400, 100, 1, 500), (400, 100, 2, 784), (400, 100, 8, 500)]
)
def test_without_gradient_the_keys_of_a_shared_context_are_what_it_takes_more(
    context: int, response: int, rows: int, tokens: int
) -> None:
    """Of a token 100 bytes are kept, 50 are at work: two rows take 600 each for their context, eight 150."""
    assert read_behind(context, response, rows, NEEDS) == tokens


def test_rows_that_share_a_prompt_are_not_cut_where_they_fit_because_of_it(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tiny, recipe="srpo")
    scoring, room = run.learner.collect(0).scoring, run.learner.policy.room
    own = range(len(scoring.rows))
    held = scoring.held([("student", i) for i in own], behind)
    alone = [len(one.prompt_ids) + len(one.ids) for one in scoring.rows]
    assert sum(held) < 0.6 * sum(alone)
    room.memory = len(own) * max(held) * room.needs.trained
    assert scoring.parts() == [tuple(own)]
    monkeypatch.setattr(text_batch, "shares", lambda model: False)
    assert len(scoring.parts()) > 1


def test_a_run_that_goes_on_elsewhere_keeps_its_room(tiny: str) -> None:
    learner = run_of(tiny).learner
    learner.policy.room.memory = 12345
    saved = learner.state()
    learner.policy.room.memory = 999
    learner.load_state(saved)
    assert learner.policy.room.memory == 12345


# --- a run that goes on keeps what decides its batches ---------------------------------------------------------------


def test_models_that_only_teach_keep_their_size_when_a_run_goes_on(tmp_path: Path) -> None:
    """On a machine with other memory, by other names of the same models, loaded before or after."""
    models = {name: str(tiny_model_folder(tmp_path / name, seed=i)) for i, name in enumerate(("m", "t", "r"))}
    words = ("--teacher", models["t"], "--reference", models["r"])
    run = run_of(models["m"], *words, recipe="exopd")
    external = run.learner.models.weights.external
    external[models["t"]].room.memory, external[models["r"]].room.memory = 2**27, 2**28
    run.learner.policy.room.memory = 2**29
    run.learner.longest_prompt = 17
    state = json.loads(json.dumps(run.learner.state()))
    (tmp_path / "t").rename(tmp_path / "moved")
    moved = str(tmp_path / "moved")
    again = run_of(models["m"], "--teacher", moved, "--reference", models["r"], recipe="exopd").learner
    again.models.weights.external.pop(models["r"])  # as a model that a later stage asks for
    again.load_state(state)
    assert again.policy.room.memory == 2**29
    assert again.models.weights.external[moved].room.memory == 2**27
    assert again.models.weights.policy_of(External(models["r"])).room.memory == 2**28
    assert again.facts()["room"] == run.learner.facts()["room"] == run.learner.policy.window - 17
    assert again.state()["others"] == state["others"]
