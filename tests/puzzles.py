"""What the tests of the arena's puzzles share: their examples, lessons, and the grades of their models' answers."""

from __future__ import annotations

from random import Random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfteach.task.arena import Puzzle, arena_model, open_world
from selfteach.task.arena.curriculum import CURRICULA
from selfteach.task.arena.lesson import Lesson
from selfteach.task.arena.measure import answers, measure
from selfteach.task.example import Grade


def puzzle(name: str, seed: int = 0) -> Puzzle:
    found = open_world(name, seed)
    assert isinstance(found, Puzzle)
    return found


def grade_of(name: str, problem: str, answer: str) -> Grade:
    world = puzzle(name)
    return world.grade(world.example(problem), answer)


def lessons(name: str, count: int = 3000) -> list[Lesson]:
    rng = Random(0)
    return [CURRICULA[name].writer(rng) for _ in range(count)]


def plain_lessons(name: str, count: int) -> list[Lesson]:
    return [one for one in lessons(name, count) if "|" not in one.question]


def accuracy(name: str, view: str, count: int = 96) -> float:
    return measure(puzzle(name), arena_model(name), view, count).mean


def sampled(name: str, view: str = "plain", sample: bool = True, count: int = 96) -> list[Grade]:
    """Grades of the shipped model's answers to held-out problems."""
    world, folder = puzzle(name), arena_model(name)
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    asked = world.held_out(count)
    questions = [world.question(one, view) for one in asked]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        texts = answers(model, AutoTokenizer.from_pretrained(folder), questions, sample=sample)
    return [world.grade(example, text) for example, text in zip(asked, texts, strict=True)]


def mean_of(grades: list[Grade], name: str) -> float:
    values = [one.numbers[name] for one in grades if name in one.numbers]
    return sum(values) / len(values)
