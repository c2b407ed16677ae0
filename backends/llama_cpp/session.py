"""Our own loop on llama.cpp: token ids in, the best token out; each row is a sequence with K/V of its own."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter_ns
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import UNASKED, Placement, SessionOptions, Tokens
from slmbench.errors import BadInputError
from slmbench.models.artifact import Artifact
from slmbench.models.gguf_layout import MIXTURES, TENSOR_TYPES
from slmbench.terms import ComputePrecision, Device

from ..common.cpu_device import default_threads
from ..common.next_token import TokenChooser
from ..common.openmp import OpenMp
from ..common.reserved import PIECE_TOKENS, Reserved
from .bindings import Batch, Context, GgufModel
from .gguf_header import compute_of_given, matrix_types

#: What products with matrices of ggml's type are computed in: activations are brought into this first.
_COMPUTE = {one.name: one.compute for one in TENSOR_TYPES.values()}
#: Default of K/V: the compute precision, and half precision with int8, as in llama.cpp's own default.
_KV_CACHE: dict[ComputePrecision, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f16"}
FLASH, UNFUSED = "flash", "unfused"
#: Names of buffers in the host's memory begin with these.
_HOST = ("CPU", "BLAS", "AMX")
#: Buffers of weights that were reordered.
_REPACKED = frozenset(("AMX", "CPU_REPACK", "CPU_AARCH64", "CPU_HBM", "CPU_KLEIDIAI"))


class LlamaCppOptions(SessionOptions):
    """Options of the llama.cpp backend."""

    #: Type of the K/V cache; None for the compute precision's, f16 with int8.
    kv_cache: Literal["f32", "f16", "bf16"] | None = None
    #: Whether llama.cpp may reorder weights for special instructions (AMX) when it loads them; None for where the CPU
    #: and the kernel have what the library was compiled for.
    repack: bool | None = None


def kv_cache_of(options: SessionOptions) -> str | None:
    """Return the type that K/V are kept in: what is asked, or what fits the compute precision.

    With shipped settings None: llama.cpp's own, where nothing is asked.
    """
    fitting = None if options.settings == "shipped" else _KV_CACHE[options.compute_precision]
    return LlamaCppOptions.of(options).kv_cache or fitting


def attention_refusal(options: SessionOptions) -> str | None:
    """Return why flash attention does not compute in the asked precision, or None.

    llama.cpp's graph converts K and V from F32 to F16 for it (build_attn_mha), whatever the cache holds: logits are
    then off by thousandths of their standard deviation, where unfused attention is exact to millionths.
    """
    if options.attention != FLASH or kv_cache_of(options) != "f32":
        return None
    return (
        "llama.cpp's flash attention rounds K and V from fp32 to fp16: use --attention unfused, or --option "
        "kv_cache=f16 to keep them in fp16 knowingly"
    )


class LlamaCppSession:
    """One model and a context for the reserved shape. Not thread-safe."""

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions) -> None:
        """Look at the file, and let llama.cpp open it.

        Raises:
            CannotRunError: it is not what slmbench's exporter writes, or llama.cpp refuses it.
        """
        checkpoint = artifact.manifest.checkpoint
        self._device, self._reserved = device, Reserved(checkpoint)
        self._limit = checkpoint.geometry.max_total_tokens
        self._suppressed = np.array(self._reserved.end_tokens, dtype=np.int64)
        self._threads = options.threads or default_threads()
        asked = LlamaCppOptions.of(options)
        self._kv_cache = kv_cache_of(options)
        # llama.cpp's own choice on CPUs, where it keeps the precision.
        self._flash: bool | None = options.attention == FLASH or (options.attention is None and self._kv_cache != "f32")
        if options.settings == "shipped" and options.attention is None:
            self._flash = None
        given = checkpoint.given is not None
        self._given_compute = compute_of_given(artifact) if given else None
        self._types = set() if given else matrix_types(artifact)
        self._mixture = None if given else MIXTURES.get(artifact.manifest.spec.weight_precision)
        self._choice = TokenChooser()
        self._context: Context | None = None
        self._shape = (0, 0)
        #: Tokens of a prompt that see each other, and so must be read at once.
        self._together = 0
        began = perf_counter_ns()
        self._model = GgufModel(artifact.graph("model"), repack=asked.repack, shipped=options.settings == "shipped")
        self._load_ns = perf_counter_ns() - began
        self._openmp = OpenMp("libggml-cpu")

    def draw(self, seed: int | None) -> None:
        """Draw tokens with this seed from the next start on; None: take the best."""
        self._choice.draw(seed)

    def margins(self) -> NDArray[np.float64]:
        """Return how far each token given last was ahead of the second best, ``[B]``."""
        return self._choice.margins()

    def logits(self) -> NDArray[np.float32]:
        """Return the logits behind the tokens given last, ``[B, V]``."""
        return self._choice.logits()

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make the context, with K/V of full length, and the batches of prompt and step.

        Raises:
            BadInputError: more tokens than the model has positions for.
            CannotRunError: llama.cpp makes no such context.
        """
        total = input_tokens + output_tokens
        self._reserved.check_positions(total, self._limit)
        self._reserved.take(batch, input_tokens, output_tokens)
        if self._context is not None and self._shape == (batch, total):
            return
        self._close_context()
        self._shape = batch, total
        self._context = self._make_context()
        self._prompt, self._step = Batch(self._model.engine, batch * total), Batch(self._model.engine, batch)
        self._step.rows[:] = np.arange(batch)
        self._step.wanted[:] = 1
        self._padded = False

    def _make_context(self) -> Context:
        return self._model.context(
            *self._shape, self._threads, kv_type=self._kv_cache, flash=self._flash, together=self._together
        )

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Read the prompts ``[B, S]``; of prompts padded on the left only the tokens are read.

        Raises:
            BadInputError: a shape beyond what is reserved.
        """
        context = self._opened()
        count = self._reserved.start(input_ids, shared=True)
        rows = self._reserved.rows
        context.forget()
        mask = np.ones(input_ids.shape, bool) if attention_mask is None else attention_mask.astype(bool)
        self._padded = not mask.all()
        self._step.places[:] = 0
        logits = self._read(input_ids, mask, np.arange(0, rows, count))
        if count == 1:
            return self._next_tokens(logits)
        for row in range(rows):
            if row % count:
                context.copy(row - row % count, row)
        self._step.places[:] = np.repeat(self._step.places[::count], count)
        return self._next_tokens(np.repeat(logits, count, axis=0))

    def extend(self, input_ids: Tokens) -> Tokens:
        """Read ``[B, n]`` behind the K/V that are there; the first of them is the last token given.

        Raises:
            BadInputError: no place is reserved for them, or the prompts were padded.
        """
        self._opened()
        self._reserved.extend(input_ids, int(self._step.places.max()), padded=self._padded)
        return self._next_tokens(self._read(input_ids, np.ones(input_ids.shape, bool), np.arange(len(input_ids))))

    def _read(self, input_ids: Tokens, mask: NDArray[np.bool_], rows: Tokens) -> NDArray[np.float32]:
        """Read the tokens that ``mask`` leaves of ``[B, n]`` into these rows; return the logits behind each row."""
        lengths, batch = mask.sum(axis=1), self._prompt
        count = int(lengths.sum())
        batch.fill(count)
        batch.tokens[:count] = input_ids[mask]
        batch.rows[:count] = np.repeat(rows, lengths)
        batch.places[:count] = (self._step.places[rows][:, None] + mask.cumsum(axis=1) - 1)[mask]
        batch.wanted[lengths.cumsum() - 1] = 1
        self._reserved.token()
        logits = self._opened().decode(batch, len(rows))
        self._step.places[rows] += lengths
        return logits

    def chunk_logits(self, input_ids: Tokens) -> Iterator[NDArray[np.float32]]:
        """Give the logits ``[V]`` of each position of a text ``[1, n]``, from a context of its own, piece by piece."""
        count, size = input_ids.shape[1], min(input_ids.shape[1], PIECE_TOKENS)
        context = self._model.context(1, count, self._threads, kv_type=self._kv_cache, flash=self._flash, outputs=size)
        try:
            batch = Batch(self._model.engine, size)
            for begin in range(0, count, size):
                piece = input_ids[0, begin : begin + size]
                batch.fill(piece.size)
                batch.tokens[: piece.size], batch.rows[: piece.size] = piece, 0
                batch.places[: piece.size] = np.arange(begin, begin + piece.size)
                batch.wanted[: piece.size] = 1
                yield from context.decode(batch, piece.size)
        finally:
            context.close()

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``[B]`` tokens, return the next.

        Raises:
            BadInputError: a step beyond what is reserved.
        """
        context = self._opened()
        self._reserved.token()
        self._step.tokens[:] = tokens
        logits = context.decode(self._step, self._reserved.rows)
        self._step.places += 1
        return self._next_tokens(logits)

    def _next_tokens(self, logits: NDArray[np.float32]) -> Tokens:
        """Return the best token of each row, ends of sequence aside."""
        logits[:, self._suppressed] = -np.inf
        return self._choice(logits)

    def _opened(self) -> Context:
        if self._context is None:
            raise BadInputError("llama.cpp has no context: nothing is reserved")
        return self._context

    def phases_ns(self) -> dict[str, int]:
        """Return nothing: a prompt is one call."""
        return {}

    def placement(self) -> Placement:
        """Return "cpu" where every buffer of weights, K/V and results that llama.cpp made is in the host's memory."""
        engine, context = self._model.engine, self._context
        buffers = self._model.buffers | (context.buffers if context is not None else set())
        elsewhere = sorted(name for name in buffers if not name.startswith(_HOST))
        if elsewhere:
            return Placement(self._device, "+".join(elsewhere))
        # A library that knows no other device computes on the CPU, even if its log says nothing.
        known = bool(buffers) or not engine.llama_supports_gpu_offload()
        return Placement(self._device, "cpu" if known else "unknown", dict.fromkeys(sorted(buffers), 1))

    def compute_precision(self) -> str:
        """Return what products with the matrices of the file are computed in: by its header, and by llama.cpp."""
        if self._given_compute is not None:
            return self._given_compute
        found = set(self._types)
        if self._mixture is None:
            found.add(self._model.file_type())
        return "+".join(sorted({_COMPUTE.get(one, one) for one in found}))

    def threads(self) -> int:
        """Return the threads of steps as the context has them, or how many OpenMP really gives where that is fewer."""
        return self._openmp.team_size(self._threads if self._context is None else self._context.threads()[0])

    def settings(self) -> dict[str, tuple[str, str]]:
        """Return weights, threads, K/V's type, flash attention and batches, as far as llama.cpp reports them."""
        found = {
            "repacked weights": self._repacking(),
            "mmap": (UNASKED, self._model.mapped),
            "threads": (str(self._threads), self._openmp.in_words(self._threads)),
        }
        if self._mixture is not None:
            found["weights"] = self._mixture.name, self._model.file_type()
        if self._context is None:
            return found
        found["threads of prompts"] = str(self._threads), str(self._context.threads()[1])
        if self._context.kv_types is not None:
            found["kv_cache"] = self._kv_cache or UNASKED, "+".join(sorted(self._context.kv_types))
        if self._context.flash is not None:
            asked = {None: UNASKED, True: "enabled", False: "disabled"}[self._flash]
            found["flash attention"] = asked, self._context.flash
        for name, size in self._context.batches().items():
            found[name] = UNASKED, str(size)
        return found

    def _repacking(self) -> tuple[str, str]:
        """Return what was asked of repacking, and the buffers that llama.cpp made for it.

        Where it may repack, any result is what was asked: the tensors' types decide whether there is something to do.
        """
        made = "+".join(sorted(self._model.buffers & _REPACKED))
        if self._model.repacks:
            text = made or "none"
            return text, text
        off = "off" if self._model.obstacle is None else f"off: {self._model.obstacle}"
        return off, made or off

    def attention_path(self) -> str:
        """Return "flash" or "unfused": what is set for the context; with shipped settings what llama.cpp chose."""
        if self._flash is None:
            return FLASH if self._context is not None and self._context.flash == "enabled" else UNFUSED
        return FLASH if self._flash else UNFUSED

    def load_phases_ns(self) -> dict[str, int]:
        """Return "load": the file is mapped, and repacked where it is quantised, in one call."""
        return {"load": self._load_ns}

    def _close_context(self) -> None:
        if self._context is not None:
            self._context.close()
        self._context = None

    def close(self) -> None:
        """Free the context, then the model."""
        self._close_context()
        self._model.close()
