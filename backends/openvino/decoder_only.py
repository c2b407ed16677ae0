"""Decoder-only models on OpenVINO: a stateful graph reads the prompt, and it or the step's own graph continues."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Any

import numpy as np

from slmbench.backend import Tokens
from slmbench.errors import CannotRunError
from slmbench.models.artifact import Role

from .compiled_graph import CompiledGraph, StepIds
from .session import OpenVinoSession
from .step_graph import begin_with_inputs, state_begun_by


class OpenVinoDecoderOnlySession(OpenVinoSession):
    """Ids, mask and positions in, logits of the last position out; K/V are states of the graph that runs.

    Where steps have a graph of their own, the first step after a prompt takes the K/V over, and its time holds that.
    """

    _stepped: Role = "model"

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make the input buffers: prompt and step ids, the mask of every length, positions."""
        import openvino as ov

        super().reserve(batch, input_tokens, output_tokens)
        step = self._graphs[self._step_role]
        if "model" not in self._graphs and input_tokens > 1:
            self._graphs["model"] = self._read_graphs["model"].compile()
        whole = self._graphs.get("model", step)
        self._prompt, self._steps = whole.request, step.request
        self._first_logits = whole.bind_logits(batch, self._vocabulary) if whole is not step else self._logits
        self._has_positions, self._has_beams = "position_ids" in whole.names, "beam_idx" in whole.names
        total = input_tokens + output_tokens
        self._positions = StepIds(batch)
        # Masks of growing length are views of one buffer: rows of ones look the same at any length.
        self._ones = np.ones(batch * total, dtype=np.int64)
        self._step_tensors = [
            ov.Tensor(self._ones[: batch * length].reshape(batch, length), shared_memory=True)
            for length in range(1, total + 1)
        ]
        self._mask_index = step.input_index("attention_mask")
        self._begin_empty(step, batch)
        self._spread = self._narrowed = False
        for request in (self._prompt, self._steps):
            self._take_rows(request, np.arange(batch))
        self._holder: Any = self._prompt
        self._mask: Tokens | None = None

    def free_memory(self, input_tokens: int) -> None:
        """Give back the graph that reads prompts where all have one token, as a step has; and what compiling left."""
        if self._apart and input_tokens == 1 and "vision" not in self._graphs:
            del self._graphs["model"]
            self._prompt = self._steps = self._holder = self._first_logits = None
        super().free_memory(input_tokens)

    def _take_rows(self, request: Any, rows: Tokens) -> None:
        """Say which rows of the state the next rows go on from."""
        import openvino as ov

        if self._has_beams:
            request.set_tensor("beam_idx", ov.Tensor(rows.astype(np.int32)))

    def _hold(self, request: Any) -> None:
        """Have the K/V in this request's states."""
        if self._holder is request:
            return
        given = {state.name: state for state in self._holder.query_state()}
        # The engine takes what a state begins with row by row: a prompt's row for several answers has to be set.
        if request is self._steps and not self._spread:
            for name, index in self._beginnings.items():
                request.set_input_tensor(index, given[name].state)
            request.reset_state()
        else:
            for state in request.query_state():
                state.state = given[state.name].state
        self._holder = request

    def _change_for_steps(self, model: Any, rows: int) -> None:
        begin_with_inputs(model)
        super()._change_for_steps(model, rows)

    def _begin_empty(self, step: CompiledGraph, batch: int) -> None:
        """Have the steps' states begin empty until a prompt's are taken over: this graph may read prompts itself."""
        import openvino as ov

        self._beginnings: dict[str, int] = {}
        for index, port in enumerate(step.model.inputs):
            if (name := state_begun_by(port)) is None:
                continue
            self._beginnings[name] = index
            lengths = [0 if size.is_dynamic else size.get_length() for size in port.get_partial_shape()]
            nothing = ov.Tensor(port.get_element_type(), ov.Shape([batch, *lengths[1:]]))
            step.request.set_input_tensor(index, nothing)

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Prefill the prompts ``[B, S]``; a padded batch is padded on the left.

        Raises:
            BadInputError: the prompts exceed what is reserved.
            CannotRunError: a prompt shared by several answers, for a graph that has no `beam_idx`.
        """
        import openvino as ov

        count = self._reserved.start(input_ids, shared=True)
        began = perf_counter_ns()
        batch, length = input_ids.shape
        self._look(self._prompt, input_ids)
        self._prompt.reset_state()
        self._holder, self._mask = self._prompt, None
        mask = np.ones((batch, length), dtype=np.int64) if attention_mask is None else attention_mask
        if attention_mask is not None:
            self._mask = np.repeat(self._padded(attention_mask), count, axis=0)
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
        if count > 1 or self._narrowed:
            self._take_rows(self._prompt, np.arange(batch))
        self._narrowed = count > 1
        token = self._read(input_ids, ov.Tensor(np.ascontiguousarray(mask, dtype=np.int64)), positions)
        self._length = length
        if count > 1 and not self._has_beams:
            raise CannotRunError("this graph has no `beam_idx`: a prompt cannot be shared by several answers")
        self._spread = count > 1
        if self._spread:
            # The engine spreads the prompt's K/V over the rows itself, as it does for beams.
            self._take_rows(self._steps, np.repeat(np.arange(batch), count))
        self._phases_ns = self._pictures.prefill_ns(perf_counter_ns() - began)
        return token

    def extend(self, input_ids: Tokens) -> Tokens:
        """Read ``[B, n]`` behind the K/V that are there; the first of them is the last token given.

        Raises:
            BadInputError: no place is reserved for them, or the prompts were padded.
        """
        batch, count = input_ids.shape
        length = self._length + count
        self._reserved.extend(input_ids, self._length, padded=self._mask is not None or self._spread)
        self._hold(self._prompt)
        if self._narrowed:
            self._take_rows(self._prompt, np.arange(batch))
        positions = np.broadcast_to(np.arange(self._length, length), (batch, count))
        token = self._read(input_ids, self._step_tensors[length - 1], positions)
        self._length = length
        return token

    def _read(self, input_ids: Tokens, mask: Any, positions: Tokens) -> Tokens:
        """Read prompts ``[B, n]`` into the state and leave the requests ready for steps."""
        import openvino as ov

        self._reserved.token()
        request = self._prompt
        request.set_tensor("input_ids", ov.Tensor(np.ascontiguousarray(input_ids, dtype=np.int64)))
        request.set_tensor("attention_mask", mask)
        if self._has_positions:
            request.set_tensor("position_ids", ov.Tensor(np.ascontiguousarray(positions)))
        request.infer()
        self._positions.put(np.repeat(positions[:, -1], self._reserved.rows // len(input_ids)))
        token = self._first_tokens(self._first_logits)
        self._steps.set_tensor("input_ids", self._ids.tensor)
        if self._has_positions:
            self._steps.set_tensor("position_ids", self._positions.tensor)
        return token

    def _padded(self, attention_mask: Tokens) -> Tokens:
        """Return the prompts' mask with room for every new token."""
        return np.pad(attention_mask, ((0, 0), (0, self._reserved.output_tokens)), constant_values=1)

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``[B]`` tokens, return the next.

        Raises:
            BadInputError: a step beyond what is reserved.
        """
        self._reserved.token()
        self._hold(self._steps)
        self._ids.put(tokens)
        self._positions.advance()
        self._length += 1
        self._steps.set_input_tensor(self._mask_index, self._step_mask())
        self._steps.infer()
        if self._spread:
            self._spread = False
            self._take_rows(self._steps, np.arange(self._reserved.rows))
        return self._next_tokens()

    def _step_mask(self) -> Any:
        if self._mask is None:
            return self._step_tensors[self._length - 1]
        import openvino as ov

        # Rows of unequal length: no one buffer serves every length.
        return ov.Tensor(np.ascontiguousarray(self._mask[:, : self._length]))
