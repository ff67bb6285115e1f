"""A user's own forty rows and own reward, from Python. Cells as a notebook has them; run it top to bottom.

python examples/forty_rows.py
"""

# %% rows: what is asked, and what only the teacher is shown
import selfteach
from selfteach.task.arena import open_world

world = open_world("table")
rows = [
    {"problem": one.problem, "solution": one.private["solution"], "answer": one.private["answer"]}
    for one in map(world.train, range(40))
]


# %% a reward: any function of the completion and of a row's fields
def reward(completion: str, answer: str) -> float:
    return float(completion.split("#")[-1].strip() == answer.strip())


# %% train: every knob by its name, as on the command line
run = selfteach.train(
    "opsd:arena",
    "arena:table",
    rows,
    reward=reward,
    steps=40,
    instruction=False,
    prompts=16,
    eval_problems=8,
    out="runs/forty-rows",
)
run

# %% what it holds
print(run)
print(run.before, "→", run.after)
print(run.curve("loss")[:3])

# %% the trained model, as transformers loads it
model, tokenizer = run.load()

# %% evaluate it on the world's own held-out problems
print(selfteach.evaluate(run.folder, "table", problems=32, samples=1))
