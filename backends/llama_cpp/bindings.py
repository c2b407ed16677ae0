"""llama.cpp through the ctypes of llama-cpp-python: its log, a model, a context, and batches that are written in place.

llama.cpp reports some of what is in effect only in its log (the type of its K/V, the buffers that hold the weights),
and why it refuses a file. So the log is kept while it loads, and goes nowhere else.
"""

from __future__ import annotations

import ctypes
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.errors import CannotRunError, one_line
from slmbench.models.gguf_layout import FILE_TYPES

from .cpu_features import amx_obstacle, compiled_for, cpu_flags, missing_features

#: ggml's numbers of the types that K/V can have here.
KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30}
#: The bit of a file's type that llama.cpp counted itself.
_GUESSED = 1024
_ERROR = 4
_BUFFER = re.compile(r"(\S+)\s+(?:model|KV|compute|output) buffer size")
_KV_TYPE = re.compile(r"K \((\w+)\):.*V \((\w+)\):")
_FLASH = re.compile(r"flash_attn\s*=\s*(\w+)")
#: What became of "auto".
_CHOSEN_FLASH = re.compile(r"Flash Attention .*?(enabled|disabled)")


class Log:
    """What llama.cpp says, kept while somebody listens. It has one log for the whole process."""

    def __init__(self, engine: Any) -> None:
        """Take the log over."""
        self._lines: list[tuple[int, str]] | None = None
        #: For a library of llama.cpp's that has a log of its own.
        self.callback = engine.llama_log_callback(self._take)
        engine.llama_log_set(self.callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _: Any) -> None:
        if self._lines is not None:
            self._lines.append((level, text.decode("utf-8", "replace")))

    @contextmanager
    def kept(self) -> Iterator[list[tuple[int, str]]]:
        """Collect (level, text) of all that is said inside the block."""
        lines: list[tuple[int, str]] = []
        self._lines = lines
        try:
            yield lines
        finally:
            self._lines = None


@cache
def load_engine() -> tuple[Any, Log]:
    """Return the module ``llama_cpp``, its backend initialised, and its log.

    Raises:
        CannotRunError: it cannot be imported.
    """
    try:
        import llama_cpp
    except Exception as error:  # it loads a shared library, and raises RuntimeError and others as well as ImportError
        raise CannotRunError(f"llama-cpp-python cannot be imported: {one_line(str(error))[:200]}") from error
    log = Log(llama_cpp)
    llama_cpp.llama_backend_init()
    return llama_cpp, log


class GgufModel:
    """A GGUF file that llama.cpp has opened, all of it for the CPU."""

    def __init__(self, path: Path, *, repack: bool | None, shipped: bool = False) -> None:
        """Open it.

        ``repack``: whether weights may go into buffers in another order (AMX, ...); None: where it works. ``shipped``:
        the file is mapped or read as llama.cpp itself would.

        Raises:
            CannotRunError: llama.cpp was compiled for another CPU, or refuses the file: its first error.
        """
        self.engine, self._log = load_engine()
        compiled, flags = compiled_for(self.engine.llama_print_system_info().decode()), cpu_flags()
        lacking = missing_features(compiled, flags)
        if lacking:
            raise CannotRunError(
                f"llama.cpp was compiled for a CPU with {', '.join(lacking)}, which this one does not have; compile it "
                f"here: pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"
            )
        #: Why weights are not repacked although nobody asked for that, or None.
        self.obstacle = amx_obstacle(compiled, flags) if repack is None else None
        self.repacks = self.obstacle is None if repack is None else repack
        params = self.engine.llama_model_default_params()
        params.n_gpu_layers = 0
        # An empty list, not none at all: that would be every device there is.
        self._no_devices = (ctypes.c_void_p * 1)(None)
        params.devices = ctypes.cast(self._no_devices, ctypes.c_void_p)
        params.use_extra_bufts = self.repacks
        if not shipped:
            params.load_mode = self.engine.LLAMA_LOAD_MODE_MMAP
        with self._log.kept() as lines:
            self.handle = self.engine.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise CannotRunError(f"{path}: llama.cpp does not load it: {reported(lines)}")
        self._path = path
        self.buffers = _buffers(lines)
        self._contexts: list[Any] = []
        # Whoever drops a session without closing it must not keep a file mapped.
        self.close = weakref.finalize(self, _free, self.engine, self.handle, self._contexts)
        self.close.atexit = False

    @property
    def mapped(self) -> str:
        """Return "on" where weights are in buffers that map the file."""
        return "on" if any("Mapped" in name for name in self.buffers) else "off"

    def file_type(self) -> str:
        """Return the file's type, most tensors' or a mixture's; llama.cpp counts where the file does not say it."""
        reported = self.engine.llama_model_ftype(self.handle) & ~_GUESSED
        return FILE_TYPES.get(reported, f"file type {reported}")

    def context(
        self,
        rows: int,
        length: int,
        threads: int,
        *,
        kv_type: str | None,
        flash: bool | None,
        encoded: int = 0,
        outputs: int = 0,
        together: int = 0,
    ) -> Context:
        """Make a context for ``rows`` sequences of ``length`` tokens each; an encoder reads ``encoded`` tokens at once.

        ``outputs`` is for how many places logits may be asked at once; 0: for one a row. ``together``: so many tokens
        may have to be read at once, as they see each other. ``kv_type``, ``flash``: None for llama.cpp's own choice.

        Raises:
            CannotRunError: llama.cpp refuses it.
        """
        engine = self.engine
        params = engine.llama_context_default_params()
        # Each sequence has cells of its own, in steps of 256 as llama.cpp rounds them.
        params.n_seq_max, params.kv_unified = rows, False
        params.n_ctx = rows * -(-length // 256) * 256
        # Logits of one place a row: buffers for more would be there for nothing.
        least = params.n_batch if kv_type is None else 0
        params.n_batch, params.n_outputs_max = max(least, rows * length), max(rows, encoded, outputs)
        if encoded:
            # llama.cpp ends the process where an encoder's input is larger than this, and where a T5's sequences have
            # cells of their own (its table of relative positions does not fit them).
            params.n_ubatch, params.kv_unified = encoded, True
        params.n_ubatch = max(params.n_ubatch, together)
        params.n_threads = params.n_threads_batch = threads
        if kv_type is not None:
            params.type_k = params.type_v = KV_TYPES[kv_type]
        if flash is not None:
            params.flash_attn_type = int(flash)
        # Nothing for a GPU, not even single products, where the library was built for one.
        params.offload_kqv = params.op_offload = False
        params.no_perf = True
        with self._log.kept() as lines:
            handle = engine.llama_init_from_model(self.handle, params)
        if not handle:
            raise CannotRunError(
                f"{self._path}: llama.cpp makes no context for {rows}x{length} tokens: {reported(lines)}"
            )
        self._contexts.append(handle)
        return Context(self, handle, "".join(text for _, text in lines), _buffers(lines))

    def release(self, context: Any) -> None:
        """Free a context."""
        if context in self._contexts:
            self._contexts.remove(context)
            self.engine.llama_free(context)


class Context:
    """K/V and buffers for a shape."""

    def __init__(self, model: GgufModel, handle: Any, said: str, buffers: set[str]) -> None:
        """Keep the handle, and what was said when it was made."""
        self._model, self._handle, self.buffers = model, handle, buffers
        engine = self._engine = model.engine
        self._memory = engine.llama_get_memory(handle)
        self._vocabulary = engine.llama_vocab_n_tokens(engine.llama_model_get_vocab(engine.llama_get_model(handle)))
        kv, flash = _KV_TYPE.search(said), _FLASH.search(said)
        if flash is not None and flash[1] == "auto":
            flash = _CHOSEN_FLASH.search(said)
        #: The types of K and of V, and whether flash attention is on; None where the log does not say.
        self.kv_types = None if kv is None else set(kv.groups())
        self.flash = None if flash is None else flash[1]
        self._address, self._view = 0, np.zeros((0, 0), np.float32)

    def threads(self) -> tuple[int, int]:
        """Return the threads of steps and of prompts."""
        return int(self._engine.llama_n_threads(self._handle)), int(self._engine.llama_n_threads_batch(self._handle))

    def batches(self) -> dict[str, int]:
        """Return the tokens that one call may have, and how many of them are computed at once."""
        engine = self._engine
        return {
            "n_batch": int(engine.llama_n_batch(self._handle)),
            "n_ubatch": int(engine.llama_n_ubatch(self._handle)),
        }

    def forget(self) -> None:
        """Empty the K/V. What is in the cells stays and is masked: clearing it would be part of the prompt's time."""
        self._engine.llama_memory_clear(self._memory, False)

    def copy(self, source: int, target: int) -> None:
        """Give one sequence the K/V of another."""
        self._engine.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def decode(self, batch: Batch, rows: int) -> NDArray[np.float32]:
        """Read a batch; return the logits ``[rows, vocabulary]`` that it asks for, in llama.cpp's own buffer.

        Raises:
            CannotRunError: llama.cpp refuses it.
        """
        self.feed(batch)
        # It waits for the result as well.
        logits = self._engine.llama_get_logits(self._handle)
        address = ctypes.addressof(logits.contents)
        if address != self._address or len(self._view) != rows:
            self._address, self._view = address, np.ctypeslib.as_array(logits, (rows, self._vocabulary))
        return self._view

    def feed(self, batch: Batch) -> None:
        """Read a batch that asks for no logits.

        Raises:
            CannotRunError: llama.cpp refuses it.
        """
        code = self._engine.llama_decode(self._handle, batch.struct)
        if code:
            raise CannotRunError(
                f"llama.cpp reads no batch of {batch.struct.n_tokens} tokens: llama_decode gave {code}"
            )

    def see_each_other(self, on: bool) -> None:
        """Let the tokens of the batches from now on see those behind them as well, or those before them alone."""
        self._engine.llama_set_causal_attn(self._handle, not on)

    def encode(self, batch: Batch) -> None:
        """Let the encoder read a batch; its output stays in the context until the next call.

        Raises:
            CannotRunError: llama.cpp refuses it.
        """
        code = self._engine.llama_encode(self._handle, batch.struct)
        if code:
            raise CannotRunError(
                f"llama.cpp reads no batch of {batch.struct.n_tokens} tokens: llama_encode gave {code}"
            )

    def close(self) -> None:
        """Free it."""
        self._model.release(self._handle)


class Batch:
    """A ``llama_batch`` over arrays of ours: tokens, their places and sequences, and whose logits are wanted."""

    def __init__(self, engine: Any, size: int) -> None:
        """Make room for ``size`` tokens."""
        self.tokens, self.places, self.rows = (np.zeros(size, np.int32) for _ in range(3))
        self.wanted = np.zeros(size, np.int8)
        self._counts = np.ones(size, np.int32)
        # Each token's list of sequences is one long.
        self._lists = (self.rows.ctypes.data + self.rows.itemsize * np.arange(size)).astype(np.uintp)
        self.struct = engine.llama_batch()
        fields: dict[str, NDArray[Any]] = {
            "token": self.tokens, "pos": self.places, "n_seq_id": self._counts, "seq_id": self._lists,
            "logits": self.wanted,
        }  # fmt: skip
        for name, array in fields.items():
            kind = type(getattr(self.struct, name))
            setattr(self.struct, name, ctypes.cast(array.ctypes.data, kind))
        self.fill(size)

    def fill(self, count: int) -> None:
        """Take the first ``count`` of the tokens, and the logits of none of them yet."""
        self.struct.n_tokens = count
        self.wanted[:count] = 0


class FeatureBatch(Batch):
    """A ``llama_batch`` of rows of features in the places of tokens."""

    def __init__(self, engine: Any, size: int) -> None:
        """Make room for ``size`` rows' places."""
        super().__init__(engine, size)
        self.struct.token = None
        self._kind = type(self.struct.embd)

    def point_at(self, address: int) -> None:
        """Take the rows that are at this address, where they are."""
        self.struct.embd = ctypes.cast(address, self._kind)


def _free(engine: Any, model: Any, contexts: list[Any]) -> None:
    """Free the contexts, then the model that they read."""
    for context in contexts:
        engine.llama_free(context)
    contexts.clear()
    engine.llama_model_free(model)


def reported(lines: list[tuple[int, str]]) -> str:
    """Return the first error that was said; those after it say what could not be done for it."""
    errors = [text for level, text in lines if level == _ERROR]
    return one_line(errors[0])[:300] if errors else "it does not say why"


def _buffers(lines: list[tuple[int, str]]) -> set[str]:
    """Return the names of the buffers that were made: "CPU", "CPU_Mapped", "CUDA0", ..."""
    return {found[1] for _, text in lines if (found := _BUFFER.search(text)) is not None}
