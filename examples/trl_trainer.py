"""TRL's DistillationTrainer with this library's loss: any divergence, support or target, in chunks.

    trainer = ChunkedTrainer(model=..., teacher_model=..., args=DistillationConfig(...), train_dataset=...)
    trainer.train()

Written for trl 1.16 and a plain linear head (``selfteach.policy.head.output_head`` reads any other).
"""

import torch
from trl import DistillationTrainer

import selfteach.objective as obj


def scored(model, inputs):
    """The hidden states that predict each completion token, and the matrix that makes them logits."""
    ids, mask = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], 1) for x in ("ids", "mask"))
    hidden = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    return obj.Scored(
        hidden[:, inputs["prompt_ids"].shape[1] - 1 : -1], obj.Head(model.get_output_embeddings().weight)
    )


class ChunkedTrainer(DistillationTrainer):
    divergence = obj.JSD(0.5)
    support = obj.TopK(100, of="student", tail="bucket")

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        written = inputs["completion_mask"].bool()
        columns = obj.Columns(inputs["completion_ids"], written)
        with torch.no_grad():
            roles = {"teacher": scored(self.teacher_model, inputs)}
        roles["student"] = scored(model, inputs)
        term = obj.Match(
            name="match",
            target=obj.FromRole("teacher"),
            divergence=self.divergence,
            support=self.support,
            mean_over="sum",
            coefficient=1 / float(inputs.get("num_items_in_batch") or written.sum()),
        )
        batch = obj.ScoredBatch.padded(columns, roles)
        loss = obj.evaluate_terms(batch, obj.plan([term], columns)).loss
        return (loss, None) if return_outputs else loss
