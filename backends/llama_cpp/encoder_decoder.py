"""Our own loop on llama.cpp for encoder-decoders: the encoder reads the prompts at once, then the decoder steps.

llama.cpp keeps the encoder's output in the context and computes cross-attention's K/V from it at every decoder step.
"""

from __future__ import annotations

from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import SessionOptions, Tokens
from slmbench.models.artifact import Artifact
from slmbench.terms import Device

from .bindings import Batch
from .session import LlamaCppSession


class LlamaCppEncoderDecoderSession(LlamaCppSession):
    """One model and a context for the reserved shape; each row is a sequence. Not thread-safe."""

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions) -> None:
        """Look at the file, and let llama.cpp open it.

        Raises:
            CannotRunError: it is not what slmbench's exporter writes, or llama.cpp refuses it.
        """
        super().__init__(artifact, device, options)
        checkpoint = artifact.manifest.checkpoint
        self._start_token = checkpoint.decoder_start_token_id or 0
        # A T5 whose head is its embedding divides its logits (arXiv 1910.10683's code), and llama.cpp does not.
        self._scale = checkpoint.geometry.width**-0.5 if checkpoint.geometry.tied_embeddings else 1.0
        self._phases_ns: dict[str, int] = {}

    def logits(self) -> NDArray[np.float32]:
        """Return the logits behind the tokens given last, ``[B, V]``, as the model defines them."""
        return super().logits() * np.float32(self._scale)

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make the context, with K/V for the answers, and the batches of encoder and steps.

        Raises:
            CannotRunError: llama.cpp makes no such context.
        """
        self._reserved.take(batch, input_tokens, output_tokens)
        longest = max(input_tokens, output_tokens)
        self._close_context()
        self._context = self._model.context(
            batch, longest, self._threads, kv_type=self._kv_cache, flash=self._flash, encoded=batch * input_tokens
        )
        self._prompt, self._step = Batch(self._model.engine, batch * longest), Batch(self._model.engine, batch)
        self._step.rows[:] = np.arange(batch)
        self._step.wanted[:] = 1

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Encode the prompts ``[B, S]`` and run the first step; of padded prompts only the tokens are read.

        Raises:
            BadInputError: a shape beyond what is reserved.
        """
        context, batch = self._opened(), self._prompt
        self._reserved.start(input_ids)
        began = perf_counter_ns()
        context.forget()
        mask = np.ones(input_ids.shape, bool) if attention_mask is None else attention_mask.astype(bool)
        lengths = mask.sum(axis=1)
        count = int(lengths.sum())
        batch.fill(count)
        batch.tokens[:count] = input_ids[mask]
        batch.rows[:count] = np.repeat(np.arange(len(input_ids)), lengths)
        batch.places[:count] = (mask.cumsum(axis=1) - 1)[mask]
        batch.wanted[:count] = 1
        context.encode(batch)
        encoded = perf_counter_ns()
        self._step.places[:] = 0
        token = self.step(np.full(self._reserved.rows, self._start_token))
        self._phases_ns = {"encode": encoded - began, "first_step": perf_counter_ns() - encoded}
        return token

    def phases_ns(self) -> dict[str, int]:
        """Return "encode" and "first_step"; cross-attention's K/V are computed within every step."""
        return self._phases_ns

    def reread(self, tokens: Tokens) -> Tokens:
        """Read the start token and the answer so far ``[B, n]`` from position 0 on; return the next tokens.

        Raises:
            BadInputError: no place is reserved for another token.
        """
        self._reserved.token()
        context, batch = self._opened(), self._prompt
        context.forget()
        whole = np.insert(tokens, 0, self._start_token, axis=1)
        rows, length = whole.shape
        batch.fill(whole.size)
        batch.tokens[: whole.size] = whole.ravel()
        batch.rows[: whole.size] = np.repeat(np.arange(rows), length)
        batch.places[: whole.size] = np.tile(np.arange(length), rows)
        batch.wanted[length - 1 : whole.size : length] = 1
        return self._next_tokens(context.decode(batch, rows))
