"""Small runs of diffusion."""

QUIET = {"samples_every": 0, "device": "cpu", "progress": None}
SMALL = {
    "width": 8, "depth": 1, "pretrain_steps": 3, "pretrain_batch_size": 16, "sampling_steps": 4, "step_counts": (1,),
    "eval_samples": 20,
}  # fmt: skip
