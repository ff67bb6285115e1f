"""Self-distillation in a torch loop of one's own: the objective core, a Hugging Face model and nothing else.

The model answers a question, reads a hint and scores its own answer again, and moves towards these scores:

    python examples/bare_loop.py MODEL "What is 12 + 30?" "Hint: the answer is 42. "
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import selfteach.objective as obj


def scored(model, prompt, response):
    """The hidden states that predict each token of the response, and the matrix that makes them logits."""
    hidden = model.base_model(torch.cat([prompt, response], dim=1)).last_hidden_state
    return obj.Scored(hidden[:, prompt.shape[1] - 1 : -1], obj.Head(model.get_output_embeddings().weight))


def train(name, question, hint, steps=10, lr=1e-4):
    model = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    prompt, hinted = (tokenizer(text, return_tensors="pt").input_ids for text in (question, hint + question))
    term = obj.Match(name="match", target=obj.FromRole("hinted"), divergence=obj.ReverseKL())
    for _ in range(steps):
        response = model.generate(prompt, do_sample=True, max_new_tokens=32)[:, prompt.shape[1] :]
        with torch.no_grad():
            roles = {"hinted": scored(model, hinted, response)}
        roles["student"] = scored(model, prompt, response)
        columns = obj.Columns(response, torch.ones_like(response).bool())
        loss = obj.evaluate_terms(obj.ScoredBatch.padded(columns, roles), obj.plan([term], columns)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield float(loss.detach())


if __name__ == "__main__":
    for loss in train(*sys.argv[1:]):
        print(f"{loss:.4f} nats a token")
