"""Forty rows and a reward of one's own, from Python: cells as a notebook has them, to be run from top to bottom.

python examples/forty_rows.py        # about a minute on two CPU cores
"""

# %% rows: what is asked, and what the reward needs. A DataFrame or a datasets.Dataset does as well.
import selfteach
from selfteach.task.arena import open_world

world = open_world("tutor")
rows = [{"problem": one.problem, "answer": one.private["answer"]} for one in map(world.train, range(40))]


# %% a reward: any function of the completion and of a row's fields
def reward(completion: str, answer: str) -> float:
    return float(completion.rpartition("#")[2].strip() == answer)


# %% train: every setting by its name on the command line. GKD pulls the model to a larger one on its own answers.
run = selfteach.train(
    "gkd:arena",
    "arena:tutor",
    rows,
    reward=reward,
    teacher="arena:tutor-large",
    steps=20,
    prompts=16,
    solution_column=None,
    held_out_fraction=0.2,
    eval_problems=8,
    out="runs/forty-rows",
)
run

# %% what it holds: everything is read from its folder
print(run)
print(run.before, "→", run.after)
print(run.curve("loss")[-1])

# %% the trained model, as transformers loads it
model, tokenizer = run.load()

# %% both on problems that the forty rows do not hold
for one in ("arena:tutor", run.folder):
    print(selfteach.evaluate(one, "tutor", problems=64, samples=1))
