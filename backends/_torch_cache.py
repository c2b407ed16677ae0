"""K/V of one attention layer in a buffer of full length: a step writes one place and attends to a view.

Imports transformers at its top, to subclass its cache layer: sessions import this module when they run.
"""

from __future__ import annotations

from typing import Any

from transformers.cache_utils import CacheLayerMixin


class BufferedLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    """Room for ``length`` positions; nothing is copied or allocated after the first update.

    With a ``window`` a query attends to the last ``window`` positions only, as a view of the same buffer.
    """

    def __init__(self, length: int, window: int | None) -> None:
        super().__init__()
        self._length, self._window = length, window
        self._filled = 0
        # transformers makes the mask of windowed layers from this and from get_mask_sizes.
        self.is_sliding = window is not None

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Make the buffers, in the shape and type of the first K/V, [B, kv, S, d]."""
        batch, heads, _, size = key_states.shape
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty(batch, heads, self._length, size)
        self.values = value_states.new_empty(batch, heads, self._length, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Write K/V [B, kv, S, d] behind what is there; return views of all that the S queries attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        count = key_states.shape[-2]
        shown, first = self.get_mask_sizes(count)
        end = self._filled + count
        self.keys[:, :, self._filled : end] = key_states
        self.values[:, :, self._filled : end] = value_states
        self._filled = end
        return self.keys[:, :, first : first + shown], self.values[:, :, first : first + shown]

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
