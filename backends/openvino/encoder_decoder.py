"""Encoder-decoders on OpenVINO: an encoder graph, and a stateful decoder graph for the first and all later steps."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Any

import numpy as np

from slmbench.backend import Tokens
from slmbench.models.artifact import Role

from .compiled_graph import CompiledGraph
from .session import OpenVinoSession


class OpenVinoEncoderDecoderSession(OpenVinoSession):
    """An encoder graph and a stateful decoder graph.

    Ours hands over the cross K/V of every layer: the decoder's inputs are the encoder's output tensors, without a
    copy. optimum-intel's hands over the encoder's states, and its decoder keeps the cross K/V it makes of them.
    """

    _stepped: Role = "decoder"

    def _whole(self) -> list[Role]:
        """Return all but the decoder, which is compiled as it is only where its steps have no graph of their own."""
        return [role for role in self._read_graphs if role != "decoder" or not self._apart]

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make the input buffers and match the encoder's outputs with the decoder's inputs."""
        super().reserve(batch, input_tokens, output_tokens)
        self._start_token = self._artifact.manifest.checkpoint.decoder_start_token_id or 0
        encoder, decoder = self._graphs["encoder"], self._graphs[self._step_role]
        self._encoder, self._decoder = encoder.request, decoder.request
        self._ids_name = "input_ids" if "input_ids" in decoder.names else "decoder_input_ids"
        self._handed: list[tuple[int, str]] = []
        for index, port in enumerate(encoder.model.outputs):
            names = port.get_names()
            target = names & decoder.names
            if "last_hidden_state" in names:
                target = {"encoder_hidden_states"}
            self._handed += [(index, name) for name in target]
        self._decoder.set_tensor(self._ids_name, self._ids.tensor)
        self._take_rows(decoder)
        self._given: list[tuple[str, Any]] = []

    def _take_rows(self, decoder: CompiledGraph) -> None:
        import openvino as ov

        if "beam_idx" in decoder.names:
            decoder.request.set_tensor("beam_idx", ov.Tensor(np.arange(self._reserved.rows, dtype=np.int32)))

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Encode the prompts ``[B, N]`` and run the first decoder step; a padded batch is padded on the right.

        Raises:
            BadInputError: the prompts exceed what is reserved.
        """
        import openvino as ov

        count = self._reserved.start(input_ids, shared=True)
        self._look(self._encoder, input_ids)
        began = perf_counter_ns()
        mask = np.ones(input_ids.shape, dtype=np.int64) if attention_mask is None else attention_mask
        ids_tensor = ov.Tensor(np.ascontiguousarray(input_ids, dtype=np.int64))
        mask_tensor = ov.Tensor(np.ascontiguousarray(mask, dtype=np.int64))
        self._encoder.set_tensor("input_ids", ids_tensor)
        self._encoder.set_tensor("attention_mask", mask_tensor)
        self._encoder.infer()
        encoded = perf_counter_ns()
        self._decoder.reset_state()
        self._given = []
        for index, name in self._handed:
            given = self._encoder.get_output_tensor(index)
            self._given.append((name, ov.Tensor(np.repeat(given.data, count, axis=0)) if count > 1 else given))
        if count > 1:
            mask_tensor = ov.Tensor(np.repeat(mask_tensor.data, count, axis=0))
        self._given.append(("encoder_attention_mask", mask_tensor))
        for name, tensor in self._given:
            self._decoder.set_tensor(name, tensor)
        token = self.step(np.full(self._reserved.rows, self._start_token, dtype=np.int64))
        parts = {"encode": encoded - began, "first_step": perf_counter_ns() - encoded}
        self._phases_ns = {**self._pictures.phases_ns(), **parts}
        return token

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``[B]`` tokens, return the next.

        Raises:
            BadInputError: a step beyond what is reserved.
        """
        self._reserved.token()
        self._ids.put(tokens)
        self._decoder.infer()
        return self._next_tokens()

    def reread(self, tokens: Tokens) -> Tokens:
        """Read the start token and the answer so far ``[B, n]`` into an empty state; return the next tokens.

        Raises:
            BadInputError: a token beyond what is reserved.
        """
        import openvino as ov

        self._reserved.token()
        # Only this ablation gives a decoder more than one token: a graph of steps takes no more.
        if "decoder" not in self._graphs:
            self._graphs["decoder"] = self._read_graphs["decoder"].compile()
        decoder = self._graphs["decoder"]
        if self._apart:
            for name, tensor in self._given:
                decoder.request.set_tensor(name, tensor)
            self._take_rows(decoder)
        logits = decoder.bind_logits(self._reserved.rows, self._vocabulary) if self._apart else self._logits
        decoder.request.reset_state()
        whole = np.insert(tokens, 0, self._start_token, axis=1)
        decoder.request.set_tensor(self._ids_name, ov.Tensor(np.ascontiguousarray(whole)))
        decoder.request.infer()
        decoder.request.set_tensor(self._ids_name, self._ids.tensor)
        return self._first_tokens(logits)
