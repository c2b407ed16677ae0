"""K/V of one attention layer in a buffer of full length: a step writes one place and attends to a view."""

from __future__ import annotations

from typing import Any

from slmbench.models.network import CacheLayer


class BufferedLayer(CacheLayer):
    """Room for ``length`` positions; nothing is copied or allocated after the first update.

    Prompts may be fewer than ``rows``: :meth:`spread` gives each of them several. With a ``window`` a query attends to
    the last ``window`` positions only, as a view of the same buffer.
    """

    def __init__(self, rows: int, length: int, window: int | None) -> None:
        self._rows, self._length, self._window = rows, length, window
        self._filled = 0
        # transformers makes the mask of windowed layers from this and from get_mask_sizes.
        self.is_sliding = window is not None

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Make the buffers, in the shape and type of the first K/V, [B, kv, S, d]."""
        _, heads, _, size = key_states.shape
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty(self._rows, heads, self._length, size)
        self.values = value_states.new_empty(self._rows, heads, self._length, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Write K/V [B, kv, S, d] behind what is there; return views of all that the S queries attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, count = key_states.shape[0], key_states.shape[-2]
        shown, first = self.get_mask_sizes(count)
        end = self._filled + count
        self.keys[:rows, :, self._filled : end] = key_states
        self.values[:rows, :, self._filled : end] = value_states
        self._filled = end
        return self.keys[:rows, :, first : first + shown], self.values[:rows, :, first : first + shown]

    def spread(self, count: int) -> None:
        """Give each prompt ``count`` rows with its K/V."""
        prompts = self._rows // count
        for buffer in (self.keys, self.values):
            filled = buffer[:, :, : self._filled]
            filled[:] = filled[:prompts].repeat_interleave(count, dim=0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many positions ``query_length`` new queries attend to, and the first of them."""
        end = self._filled + query_length
        first = 0 if self._window is None else max(0, self._filled + 1 - self._window)
        return end - first, first

    def get_seq_length(self) -> int:
        """Return the positions written so far."""
        return self._filled

    def get_max_cache_shape(self) -> int:
        """Return the positions there is room for."""
        return self._length

    def reset(self) -> None:
        """Forget everything; the next update writes over it."""
        self._filled = 0
