"""Sessions over transformers' networks: our own loop, K/V in buffers that ``reserve`` makes once."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import Pixels, Placement, SessionOptions, Tokens
from slmbench.errors import CannotRunError
from slmbench.models.artifact import Artifact
from slmbench.models.network import Reader, cache_of, layer_windows
from slmbench.terms import Device

from ..common.cpu_device import default_threads
from ..common.next_token import TokenChooser
from ..common.openmp import OpenMp
from ..common.reserved import PIECE_TOKENS, Reserved
from .kv_cache import BufferedLayer
from .networks import load_networks
from .vision_part import TorchPictures

_NAMES = {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16"}


class TorchOptions(SessionOptions):
    """Options of the torch backend."""

    #: Whether steps run through torch.compile, over K/V of fixed length. It needs a C++ compiler, and minutes.
    compile: bool = False


class TorchSession:
    """What sessions of both families share. Not thread-safe; torch's number of threads is the process's."""

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions) -> None:
        """Load config and weights in the compute precision.

        Raises:
            CannotRunError: transformers does not load them.
        """
        import torch

        self._device, self._compiles = device, TorchOptions.of(options).compile
        self._place = torch.device("cuda" if device == "gpu" else "cpu")
        own_threads = torch.get_num_threads() if options.settings == "shipped" else default_threads()
        self._threads = options.threads or own_threads if device == "cpu" else 0
        if device == "cpu":
            torch.set_num_threads(self._threads)
            self._openmp = OpenMp("libtorch_cpu")
        if options.settings == "fair":  # "fp32" may mean TF32 or bf16 products otherwise
            torch.set_float32_matmul_precision("highest")
        checkpoint = artifact.manifest.checkpoint
        self._layers = checkpoint.geometry.decoder_layers
        started = perf_counter_ns()
        networks = load_networks(artifact, options.compute_precision)
        self._model, self._vision = networks.text.to(self._place), networks.vision
        if self._vision is not None:
            self._vision.to(self._place)
        self._load_ns = perf_counter_ns() - started
        # Here and not at each start: it looks at the network's signature, which takes a share of a first token's time.
        self._reader: Any = Reader(self._model)
        self._reserved = Reserved(checkpoint, pictures=artifact.manifest.spec.pictures)
        self._suppressed = torch.tensor(self._reserved.end_tokens, dtype=torch.long, device=self._place)
        # The whole graph: where the compiler breaks one, or has met too many shapes, it silently continues uncompiled.
        self._call = torch.compile(self._model, dynamic=False, fullgraph=True) if self._compiles else self._model
        self._compiled_before = _compiled_graphs()
        self._logits_dtype = ""
        self._phases_ns: dict[str, int] = {}
        self._choice = TokenChooser()
        self._pictures = TorchPictures(checkpoint, networks, self._place)

    def take_pictures(self, pixels: Pixels) -> None:
        """Hold the pictures of the next start and of those after it.

        Raises:
            BadInputError: the artifact takes no pictures, or others than these.
        """
        self._pictures.take(pixels)

    def draw(self, seed: int | None) -> None:
        """Draw tokens with this seed from the next start on; None: take the best."""
        self._choice.draw(seed)

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Keep the shape; a smaller prompt may come, a larger one is refused."""
        self._reserved.take(batch, input_tokens, output_tokens)

    def _check(self, input_ids: Tokens) -> int:
        """Return how many rows answer each prompt."""
        count = self._reserved.start(input_ids, shared=True)
        if self._compiles and count > 1:
            raise CannotRunError("K/V of fixed shape (compile=true) take no prompt shared by several answers")
        return count

    def _next_tokens(self, logits: Any) -> Tokens:
        """Return the best token of each row of ``[B, 1, V]``, ends of sequence aside."""
        self._last_logits = last = logits[:, -1].index_fill(1, self._suppressed, float("-inf"))
        self._logits_dtype = str(logits.dtype)
        if self._choice.drawing:
            return self._choice(last.float().cpu().numpy())
        return last.argmax(-1).cpu().numpy()  # type: ignore[no-any-return]  # argmax is typed Any

    def logits(self) -> NDArray[np.float32]:
        """Return the logits behind the tokens given last, ``[B, V]``."""
        return np.asarray(self._last_logits.float().cpu().numpy(), np.float32)

    def _tensor(self, values: Tokens) -> Any:
        import torch

        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(self._place)

    def _cache(self, length: int) -> Any:
        """Return a cache for ``length`` positions: of fixed shape to compile, else one whose layers give views.

        None where the network's layers keep something else than K/V: it makes its own then, at every start.
        """
        from transformers.cache_utils import Cache, StaticLayer

        windows = layer_windows(self._model, self._layers)
        if windows is None:
            if self._compiles:
                raise CannotRunError("compile=true needs K/V of fixed shape; this network's layers keep something else")
            return None
        if self._compiles:
            # Windowed layers too: the mask keeps their window, and one that rolls would be compiled at every step.
            return Cache(layers=[StaticLayer(length) for _ in windows])
        return cache_of([BufferedLayer(self._reserved.rows, length, window) for window in windows])

    def _spread_kv(self, reserved: Any, kept: Any, count: int) -> None:
        """Give each prompt ``count`` rows of what was kept: in the buffers that were reserved, or in its own cache."""
        if reserved is not None:
            for layer in reserved.layers:
                layer.spread(count)
        elif hasattr(kept, "batch_repeat_interleave"):
            kept.batch_repeat_interleave(count)
        else:
            raise CannotRunError("what this network keeps of a prompt cannot be shared by several answers")

    def phases_ns(self) -> dict[str, int]:
        """Return the parts of the last start, in ns."""
        return dict(self._phases_ns)

    def placement(self) -> Placement:
        """Return the type of device that holds the parameters, which is where torch computes, and their number."""
        nodes: dict[str, int] = {}
        for parameter in self._parameters():
            name = {"cuda": "gpu"}.get(parameter.device.type, parameter.device.type)
            nodes[name] = nodes.get(name, 0) + 1
        return Placement(self._device, "+".join(sorted(nodes)), nodes)

    def _parameters(self) -> list[Any]:
        networks = [self._model] if self._vision is None else [self._model, self._vision]
        return [parameter for network in networks for parameter in network.parameters()]

    def compute_precision(self) -> str:
        """Return the type of the parameters, and of the last logits where it is another; TF32 is not fp32."""
        import torch

        found = {str(parameter.dtype) for parameter in self._parameters()} | {self._logits_dtype} - {""}
        names = {_NAMES.get(one, one) for one in found}
        if names == {"fp32"} and torch.get_float32_matmul_precision() != "highest":
            return "reduced fp32"
        return "+".join(sorted(names))

    def threads(self) -> int:
        """Return torch's threads, or how many its OpenMP really gives where that is fewer; 0 on a GPU."""
        import torch

        return self._openmp.team_size(torch.get_num_threads()) if self._device == "cpu" else 0

    def settings(self) -> dict[str, tuple[str, str]]:
        """Return whether steps are compiled, where that was asked (the environment can forbid it), and the threads."""
        found = {"compile": ("True", str(self._is_compiled()))} if self._compiles else {}
        if self._device == "cpu":
            found["threads"] = str(self._threads), self._openmp.in_words(self._threads)
        return found

    def _is_compiled(self) -> bool:
        return self._compiles and _compiled_graphs() > self._compiled_before

    def attention_path(self) -> str:
        """Return the attention that the network runs: "SDPA", or "eager" where transformers has no other."""
        path = "SDPA" if self._model.config._attn_implementation == "sdpa" else "eager"
        return f"{path}, compiled" if self._is_compiled() else path

    def load_phases_ns(self) -> dict[str, int]:
        """Return "load": reading and casting the weights. (Compiling happens in the first steps.)"""
        return {"load": self._load_ns}

    def close(self) -> None:
        """Free the network and its buffers."""
        import torch

        self._model = self._call = self._past = self._reader = self._vision = None
        del self._pictures
        if self._compiles:
            torch._dynamo.reset()

    _past: Any = None
    _last_logits: Any = None


class TorchDecoderOnly(TorchSession):
    """A decoder-only network."""

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make the K/V buffers."""
        super().reserve(batch, input_tokens, output_tokens)
        self._past = self._cache(input_tokens + output_tokens)

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Prefill the prompts ``[B, S]``; a padded batch is padded on the left.

        Raises:
            BadInputError: the prompts exceed what is reserved.
            CannotRunError: compiled steps for a prompt shared by several answers.
        """
        import torch

        count = self._check(input_ids)
        self._mask = self._positions = None
        self._length = 0
        length = input_ids.shape[1]
        if attention_mask is not None:
            total = self._reserved.total if self._compiles else length + self._reserved.output_tokens
            self._mask = self._tensor(np.pad(attention_mask, ((0, 0), (0, total - length)), constant_values=1))
            self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        began = perf_counter_ns()
        with self._pictures.in_place(input_ids), torch.inference_mode():
            if self._past is not None:
                self._past.reset()
            self._reader.begin(self._past)
            logits = self._read(input_ids)
            if count > 1:
                self._spread_kv(self._past, self._reader.kept, count)
                logits = logits.repeat_interleave(count, dim=0)
                if self._mask is not None and self._positions is not None:
                    self._mask = self._mask.repeat_interleave(count, dim=0)
                    self._positions = self._positions.repeat_interleave(count, dim=0)
            token = self._next_tokens(logits)
        self._phases_ns = self._pictures.prefill_ns(perf_counter_ns() - began)
        return token

    def extend(self, input_ids: Tokens) -> Tokens:
        """Read ``[B, n]`` behind the K/V that are there; the first of them is the last token given.

        Raises:
            BadInputError: no place is reserved for them, or the prompts were padded.
        """
        import torch

        self._reserved.extend(input_ids, self._length, padded=self._mask is not None)
        with torch.inference_mode():
            return self._next_tokens(self._read(input_ids))

    def _read(self, input_ids: Tokens) -> Any:
        """Return the logits of the last position after reading ``[B, n]`` behind what the K/V hold."""
        self._reserved.token()
        self._length += input_ids.shape[1]
        return self._reader.read(self._tensor(input_ids), **self._padding(input_ids.shape[1]))

    def chunk_logits(self, input_ids: Tokens) -> Iterator[NDArray[np.float32]]:
        """Give the logits ``[V]`` of each position of a text ``[1, n]``, in one piece where layers keep no K/V."""
        whole = self._past is None or self._compiles
        yield from self._reader.rows(self._tensor(input_ids), self._past, input_ids.shape[1] if whole else PIECE_TOKENS)

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``[B]`` tokens, return the next.

        Raises:
            BadInputError: a step beyond what is reserved.
        """
        import torch

        self._reserved.token()
        self._length += 1
        with torch.inference_mode():
            ids = self._tensor(tokens).unsqueeze(1)
            return self._next_tokens(self._reader.read(ids, self._call, **self._padding(1)))

    def _padding(self, fed: int) -> dict[str, Any]:
        """Return mask and positions for the next ``fed`` tokens; nothing where no prompt is padded."""
        if self._mask is None or self._positions is None:
            return {}
        end = self._length
        # A compiled step takes the whole mask: what lies ahead is masked by causality.
        mask = self._mask if self._compiles else self._mask[:, :end]
        return {"attention_mask": mask, "position_ids": self._positions[:, end - fed : end]}

    _mask: Any = None
    _positions: Any = None
    _length = 0


class TorchEncoderDecoder(TorchSession):
    """An encoder-decoder network; its cross K/V are made in the first decoder step and kept."""

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions) -> None:
        """Load, and remember the token that starts the decoder."""
        super().__init__(artifact, device, options)
        start = artifact.manifest.checkpoint.decoder_start_token_id
        self._start_token = 0 if start is None else start

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make the K/V buffers of self-attention."""
        super().reserve(batch, input_tokens, output_tokens)
        self._self_kv = self._cache(output_tokens)

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Encode the prompts ``[B, N]`` and run the first decoder step; a padded batch is padded on the right.

        Raises:
            BadInputError: the prompts exceed what is reserved.
            CannotRunError: compiled steps for a prompt shared by several answers.
        """
        import torch
        from transformers import DynamicCache, EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        count = self._check(input_ids)
        self._reserved.token()
        placed = self._pictures.in_place(input_ids)
        began = perf_counter_ns()
        with placed, torch.inference_mode():
            if self._self_kv is not None:
                self._self_kv.reset()
            self._mask = self._tensor(np.ones_like(input_ids) if attention_mask is None else attention_mask)
            encoder = self._model.get_encoder()
            states = encoder(input_ids=self._tensor(input_ids), attention_mask=self._mask).last_hidden_state
            if self._device == "gpu":
                torch.cuda.synchronize()
        encoded = perf_counter_ns()
        self._states = BaseModelOutput(last_hidden_state=states)
        kept = EncoderDecoderCache(self._self_kv, DynamicCache()) if self._self_kv is not None else None
        self._reader.begin(kept, encoder_outputs=self._states, attention_mask=self._mask)
        with torch.inference_mode():
            # Before the rows part, so that cross K/V are made once a prompt.
            logits = self._reader.read(self._tensor(np.full((len(input_ids), 1), self._start_token, dtype=np.int64)))
            if count > 1:
                logits = self._spread(logits, count)
            token = self._next_tokens(logits)
        parts = {"encode": encoded - began, "first_step": perf_counter_ns() - encoded}
        self._phases_ns = {**self._pictures.phases_ns(), **parts}
        return token

    def _spread(self, logits: Any, count: int) -> Any:
        """Give each prompt ``count`` rows with its K/V, and return its logits for each."""
        kept = self._reader.kept
        self._spread_kv(self._self_kv, kept, count)
        if self._self_kv is not None:
            kept.cross_attention_cache.batch_repeat_interleave(count)
        self._mask = self._reader.fixed["attention_mask"] = self._mask.repeat_interleave(count, dim=0)
        self._states.last_hidden_state = self._states.last_hidden_state.repeat_interleave(count, dim=0)
        return logits.repeat_interleave(count, dim=0)

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``[B]`` tokens, return the next.

        Raises:
            BadInputError: a step beyond what is reserved.
        """
        import torch

        self._reserved.token()
        with torch.inference_mode():
            return self._next_tokens(self._reader.read(self._tensor(tokens[:, None]), self._call))

    def reread(self, tokens: Tokens) -> Tokens:
        """Read the start token and the answer so far ``[B, n]`` without any cache; return the next tokens.

        transformers then makes the cross K/V again as well, as the paper's released loop does.

        Raises:
            BadInputError: a token beyond what is reserved.
        """
        import torch

        self._reserved.token()
        whole = np.insert(tokens, 0, self._start_token, axis=1)
        with torch.inference_mode():
            read = self._model(
                encoder_outputs=self._states,
                attention_mask=self._mask,
                decoder_input_ids=self._tensor(whole),
                use_cache=False,
            )
            return self._next_tokens(read.logits)


def _compiled_graphs() -> int:
    """Return how many graphs this process has compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
