"""stub"""

from selfteach.task.opening import open_task


def make_task(task, *, reward=None, seed=0, options=None):
    return open_task(task, seed=seed, options=options)
