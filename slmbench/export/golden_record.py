"""The golden record: what torch in fp32 makes of two prompts, and how sure it was of each token."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slmbench.models.artifact import GoldenPrompt, GoldenRecord
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.network import Reader

if TYPE_CHECKING:
    import torch

#: Unequal lengths, neither of them a round number, one beyond the tiny checkpoints' sliding windows twice over.
PROMPT_LENGTHS = (48, 29)
TOKENS = 24
_SEED = 20250123


def make_golden(
    model: torch.nn.Module,
    checkpoint: Checkpoint,
    *,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
) -> GoldenRecord:
    """Return the record of ``model`` (fp32, eager): greedy, EOS suppressed, with K/V kept from step to step.

    ``input_tokens`` and ``output_tokens`` bound prompts and answers, for artifacts that were built for no more.
    """
    prompts = []
    for ids in golden_prompts(checkpoint, input_tokens):
        count = min(TOKENS, output_tokens or TOKENS)
        tokens, margins = _generate(model, checkpoint, ids, count)
        prompts.append(GoldenPrompt(input_ids=tuple(int(i) for i in ids), tokens=tuple(tokens), margins=tuple(margins)))
    return GoldenRecord(prompts=tuple(prompts), versions=reference_versions())


def reference_versions() -> dict[str, str]:
    """Return the versions of the libraries that make a record; "none" for one that is not installed."""
    found = {}
    for name in ("torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def golden_prompts(checkpoint: Checkpoint, input_tokens: int | None = None) -> list[NDArray[np.int64]]:
    """Return the record's prompts: token ids from a fixed seed, special tokens left out."""
    geometry = checkpoint.geometry
    bounds = [bound for bound in (input_tokens, geometry.max_input_tokens) if bound is not None]
    special = {*checkpoint.eos_token_ids, checkpoint.pad_token_id, checkpoint.decoder_start_token_id, 0, 1, 2, 3}
    special.update(checkpoint.unfed_token_ids)
    if checkpoint.vision is not None:
        special.add(checkpoint.vision.image_token_id)
    allowed = np.array([i for i in range(geometry.vocab_size) if i not in special], dtype=np.int64)
    raw = np.random.PCG64(_SEED)
    return [allowed[raw.random_raw(min([n, *bounds])) % np.uint64(allowed.size)] for n in PROMPT_LENGTHS]


def _generate(model: Any, checkpoint: Checkpoint, ids: NDArray[np.int64], count: int) -> tuple[list[int], list[float]]:
    """Return ``count`` greedy tokens and their margins, from an explicit loop with K/V or states kept."""
    import torch

    tokens: list[int] = []
    margins: list[float] = []
    fixed: dict[str, Any] = {}
    with torch.inference_mode():
        prompt = torch.from_numpy(ids)[None]
        if checkpoint.family == "encoder-decoder":
            fixed["encoder_outputs"] = model.get_encoder()(input_ids=prompt, attention_mask=torch.ones_like(prompt))
            fixed["attention_mask"] = torch.ones_like(prompt)
            fed = torch.tensor([[checkpoint.decoder_start_token_id]])
        else:
            fed = prompt
        reader = Reader(model, **fixed)
        for _ in range(count):
            token, margin = pick(reader.read(fed)[0, -1].double().numpy(), checkpoint.eos_token_ids)
            tokens.append(token)
            margins.append(margin)
            fed = torch.tensor([[token]])
    return tokens, margins


def pick(logits: NDArray[np.float64], suppressed: tuple[int, ...]) -> tuple[int, float]:
    """Return the best token that is not suppressed, and its margin over the second.

    ``logits`` has shape ``[vocabulary]``. The margin is the difference of the two largest logits in units of the
    standard deviation of all that are not suppressed.
    """
    open_ = np.delete(logits, [token for token in suppressed if token < logits.size])
    second, first = np.sort(np.partition(open_, -2)[-2:])
    masked = logits.copy()
    masked[[token for token in suppressed if token < logits.size]] = -np.inf
    return int(masked.argmax()), float((first - second) / open_.std())
