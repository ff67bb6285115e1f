"""How often BabyAI's planner fulfills its missions, played through the task as a policy would: docs/babyai.md.

python benchmarks/babyai_expert.py GoToLocal GoTo
"""

from __future__ import annotations

import sys

from selfteach.task.babyai import BabyAISettings, babyai
from selfteach.task.environment import turns_of
from selfteach.task.example import Message

EPISODES = 20


def main(levels: list[str]) -> None:
    for level in levels:
        task = babyai(BabyAISettings(level=level))
        examples = [one for one in task.held_out(EPISODES) if "solution" in one.private]
        rewards, turns = [], []
        for example in examples:
            environment = task.environment()
            environment.reset(example)
            turns.append(turns_of(example, "solution"))
            replies = [environment.step(Message(role="assistant", content=turn)) for turn in turns[-1]]
            rewards.append(sum(reply.reward for reply in replies))
            environment.close()
        lengths = [len(one) for one in turns] or [0]
        mean = sum(lengths) / len(lengths)
        print(
            f"{level}: {sum(rewards):g} of {EPISODES}, turns {mean:.2f} in the mean, at most {max(lengths)}"
        )


if __name__ == "__main__":
    main(sys.argv[1:] or [BabyAISettings().level])
