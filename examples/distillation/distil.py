"""Distil a small decoder-only teacher into encoder-decoder students, and let slmbench measure all of them together.

    python examples/distillation/distil.py OUT            # about ten minutes on two CPU cores
    python examples/distillation/distil.py OUT --quick    # less than a minute: shows the way, its scores mean nothing

OUT gets a checkpoint per model, the task file, and the run of slmbench. README.md says what was found.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional

import slmbench
from slmbench.models import catalog

#: What a ticket can be about, and the words that speak of it.
TOPICS = {
    "billing": ("invoice", "charge", "receipt", "tax"),
    "shipping": ("parcel", "courier", "address", "label"),
    "returns": ("refund", "exchange", "broken", "unwanted"),
    "login": ("password", "account", "locked", "email"),
    "hardware": ("screen", "battery", "cable", "fan"),
    "network": ("router", "signal", "offline", "cable-modem"),
    "print": ("paper", "ink", "tray", "scan"),
    "travel": ("flight", "hotel", "visa", "train"),
}
PAD, END = 0, 1
VOCABULARY = ["<pad>", "</s>", *TOPICS, *(word for words in TOPICS.values() for word in words)]
#: Asked for: so many topics, the most frequent first.
TOP = 3
#: Rows of the embedding: the catalog's tiny models have 1,024, of which this task would use 42.
VOCABULARY_SIZE = 64


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    words: int = 48
    examples: int = 4096
    items: int = 300
    teacher_steps: int = 400
    student_steps: int = 200
    batch: int = 32
    seeds: int = 3
    learning_rate: float = 2e-3
    #: Share of the loss that follows the teacher's distribution; the rest follows the targets.
    teacher_weight: float = 0.7


QUICK = Plan(words=24, examples=256, items=20, teacher_steps=12, student_steps=8, seeds=2)


@dataclass(frozen=True)
class Examples:
    """Token ids: tickets ``[n, words]`` and their answers ``[n, TOP + 1]``, each with an end."""

    tickets: torch.Tensor
    answers: torch.Tensor


def make_examples(count: int, words: int, seed: int) -> Examples:
    """Draw tickets whose most frequent topics have no tie."""
    rng = np.random.default_rng(seed)
    first_topic, first_word = 2, 2 + len(TOPICS)
    tickets, answers = [], []
    while len(tickets) < count:
        topics = rng.choice(len(TOPICS), size=words, p=rng.dirichlet(np.ones(len(TOPICS))))
        counts = np.bincount(topics, minlength=len(TOPICS))
        order = np.argsort(-counts)
        if np.any(np.diff(counts[order[: TOP + 1]]) == 0):
            continue
        tickets.append(first_word + 4 * topics + rng.integers(4, size=words))
        answers.append([*(first_topic + order[:TOP]), END])
    return Examples(torch.tensor(np.array(tickets)), torch.tensor(np.array(answers)))


def new_model(name: str, seed: int, **changed: int) -> Any:
    """Return a network of the catalog's shape with new weights."""
    config = dict(catalog.get(name).config) | {"vocab_size": VOCABULARY_SIZE, "pad_token_id": PAD, "eos_token_id": END}
    torch.manual_seed(seed)
    kind = config.pop("model_type")
    made = transformers.AutoConfig.for_model(kind, **config | changed)
    if made.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM.from_config(made)
    return transformers.AutoModelForCausalLM.from_config(made)


def answer_logits(model: Any, tickets: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Return the logits ``[n, TOP + 1, vocabulary]`` of each answer's tokens, given those before."""
    if model.config.is_encoder_decoder:
        fed = torch.cat([torch.full_like(answers[:, :1], model.config.decoder_start_token_id), answers[:, :-1]], dim=1)
        return model(input_ids=tickets, decoder_input_ids=fed, use_cache=False).logits
    read = torch.cat([tickets, answers[:, :-1]], dim=1)
    return model(input_ids=read, use_cache=False, logits_to_keep=answers.shape[1]).logits


def train(model: Any, examples: Examples, teacher: torch.Tensor | None, steps: int, plan: Plan, seed: int) -> Any:
    """Train on the targets, and on the teacher's distributions ``[n, TOP + 1, vocabulary]`` where there are some."""
    model.train()
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, weight_decay=0.01)
    warm_up = max(1, steps // 20)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for _ in range(steps):
        chosen = torch.randint(len(examples.tickets), (plan.batch,), generator=draw)
        answers = examples.answers[chosen]
        found = answer_logits(model, examples.tickets[chosen], answers).flatten(0, 1)
        loss = functional.cross_entropy(found, answers.flatten())
        if teacher is not None:
            # Cross entropy with the teacher's shares: its KL divergence but for a constant.
            follow = functional.cross_entropy(found, teacher[chosen].flatten(0, 1))
            loss = (1 - plan.teacher_weight) * loss + plan.teacher_weight * follow
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def distributions(model: Any, examples: Examples) -> torch.Tensor:
    """Return the model's distributions over each answer's tokens."""
    pieces = zip(examples.tickets.split(256), examples.answers.split(256), strict=True)
    return torch.cat([answer_logits(model, tickets, answers).softmax(-1) for tickets, answers in pieces])


def save(model: Any, folder: Path) -> None:
    """Save a checkpoint with its tokenizer: a word is a token."""
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(VOCABULARY)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))


def write_tasks(examples: Examples, path: Path) -> None:
    """Write the tickets as a task file."""

    def text(ids: torch.Tensor) -> str:
        return " ".join(VOCABULARY[one] for one in ids.tolist() if one != END)

    rows = zip(examples.tickets, examples.answers, strict=True)
    lines = [{"prompt": text(ticket), "metric": "exact", "answer": text(answer)} for ticket, answer in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_models(out: Path, plan: Plan) -> list[str]:
    """Train teacher and students; return the folders' names, the teacher first."""
    examples = make_examples(plan.examples, plan.words, seed=1)
    write_tasks(make_examples(plan.items, plan.words, seed=2), out / "tasks.jsonl")
    began = time.monotonic()

    def done(name: str, model: Any) -> str:
        save(model, out / name)
        count = sum(one.numel() for one in model.parameters())
        print(f"{name}: {count:,} parameters, after {time.monotonic() - began:.0f} s", flush=True)
        return name

    teacher = new_model("llama-tiny", seed=0, num_hidden_layers=4)
    names = [done("teacher", train(teacher, examples, None, plan.teacher_steps, plan, seed=0))]
    soft = distributions(teacher, examples)
    for seed in range(plan.seeds):
        # The same first weights and the same order of examples: what differs is what they are trained on.
        for name, guide in ((f"plain-{seed}", None), (f"distilled-{seed}", soft)):
            student = new_model("t5-tiny", seed)
            names.append(done(name, train(student, examples, guide, plan.student_steps, plan, seed)))
    return names


def measure(out: Path, names: list[str], plan: Plan, more: list[str]) -> Path:
    """Let slmbench put all models into one table; return the run's folder."""
    command = [sys.executable, "-m", "slmbench", "run", "--tasks", "tasks.jsonl", "--max-new-tokens", str(TOP + 1)]
    command += ["--backend", "openvino", "--precision", "fp32", "--input-tokens", str(plan.words)]
    command += ["--output-tokens", str(TOP + 1), "--out", "run", *more, *(f"--model={name}" for name in names)]
    print("$", " ".join(["slmbench", *command[3:]]), flush=True)
    subprocess.run(command, cwd=out, check=True)
    return out / "run"


def gain(run: Path) -> str:
    """Return what distillation gained, over seeds: how much the next seed may differ, on these items."""
    from scipy.stats import t

    scores = slmbench.read_run(run).table().set_index("model")["score"]
    pairs = [(scores[name], scores[name.replace("plain", "distilled")]) for name in scores.index if "plain" in name]
    gains = [100 * (distilled - plain) for plain, distilled in pairs]
    mean, count = statistics.mean(gains), len(gains)
    half = t.ppf(0.975, count - 1) * statistics.stdev(gains) / math.sqrt(count)
    plain, distilled = (100 * statistics.mean(side) for side in zip(*pairs, strict=True))
    return (
        f"teacher {100 * scores['teacher']:.1f}, students on targets alone {plain:.1f}, distilled {distilled:.1f} "
        f"points: distillation gains {mean:+.1f} points [{mean - half:+.1f}, {mean + half:+.1f}] over {count} seeds"
    )


def main() -> None:
    """Train, measure, and say what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeat", type=int, default=10, help="samples per model")
    parser.add_argument("--threads", type=int, help="of the training")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    plan = QUICK if options.quick else Plan()
    options.out.mkdir(parents=True)
    transformers.utils.logging.set_verbosity_error()
    names = make_models(options.out, plan)
    run = measure(options.out, names, plan, ["--repeat", str(options.repeat)])
    print(gain(run))


if __name__ == "__main__":
    main()
