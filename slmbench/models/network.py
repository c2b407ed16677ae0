"""A checkpoint folder's network in transformers, and what it keeps of what it has read.

The one place that knows how transformers names its caches; ``tests/models/test_network.py`` fails when that changes.
"""

from __future__ import annotations

import inspect
import re
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slmbench.models.known_types import HEADED, text_part
from slmbench.terms import Family

if TYPE_CHECKING:
    import torch

#: The names that networks have for what they keep from step to step, the newest first.
_KEPT = ("cache", "past_key_values", "cache_params", "state", "mems")
#: Where checkpoints that take pictures or sound as well have the weights of their text part → where it has them alone.
_TEXT_PART = {
    r"^language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
    r"^model\.text_model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}


def load_folder(
    folder: Path,
    family: Family,
    *,
    dtype: torch.dtype,
    attention: str | None = None,
    trust_remote_code: bool = False,
    quantization: Any = None,
) -> tuple[Any, set[str]]:
    """Return the folder's network, its text part alone where it takes pictures too, and which parameters it lacks.

    ``attention`` is one of transformers' implementations; None takes the fastest that computes what the config asks.
    ``quantization`` goes to transformers as its ``quantization_config``, for weights that are quantised.

    Raises:
        OSError, ValueError, RuntimeError, ...: what transformers makes of a folder that it cannot load.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    if family == "encoder-decoder":
        auto, known = transformers.AutoModelForSeq2SeqLM, modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    else:
        auto, known = transformers.AutoModelForCausalLM, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
    text, part = text_part(config), {}
    headed = text.model_type in HEADED
    if headed:
        from slmbench.models.headed_text import TextWithHead

        auto = TextWithHead
    if type(text) is not type(config) and (type(text) in known or headed):
        # Whether the head is the embedding is the whole's to say.
        text.tie_word_embeddings = getattr(config, "tie_word_embeddings", getattr(text, "tie_word_embeddings", True))
        part = {"config": text, "key_mapping": _TEXT_PART}
        if hasattr(config, "quantization_config"):
            text.quantization_config = config.quantization_config
    if quantization is not None:
        part["quantization_config"] = quantization
    model, found = auto.from_pretrained(
        folder,
        **part,
        dtype=dtype,
        attn_implementation=attention or ("eager" if _caps_scores(config) else None),
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    share_embedding(model)
    return model.eval().requires_grad_(False), _never_loaded(model, set(found["missing_keys"]))


def in_text_part(name: str) -> str:
    """Return what the text part calls a parameter to which a network with pictures or sound gives that name."""
    for whole, text in _TEXT_PART.items():
        name = re.sub(whole, text, name)
    return name


def share_embedding(model: Any) -> None:
    """Tie the encoder's embedding to the decoder's where the config asks for it, as the paper's models do."""
    if getattr(model.config, "slmbench_shared_embedding", False):
        model.get_encoder().embed_tokens.weight = model.get_decoder().embed_tokens.weight


def _caps_scores(config: Any) -> bool:
    """Return whether attention scores are soft-capped, which transformers' SDPA silently leaves out."""
    parts = (config, config.get_text_config(decoder=True), getattr(config, "encoder", None))
    return any(getattr(part, "attn_logit_softcapping", None) for part in parts)


def _never_loaded(model: Any, missing: set[str]) -> set[str]:
    """Return those parameters of ``missing`` that are not tied to one that was loaded."""
    named = dict(model.named_parameters(remove_duplicate=False))
    loaded = {id(parameter) for name, parameter in named.items() if name not in missing}
    return {name for name in missing if name in named and id(named[name]) not in loaded}


class CacheLayer:
    """What transformers' caches ask of a layer, without one of its classes as a base: their abstract methods change."""

    is_compileable = is_croppable = is_sliding = supports_early_init = is_initialized = False
    keys: Any = None
    values: Any = None

    def get_max_cache_shape(self) -> int:
        """Return that nothing bounds it (older transformers)."""
        return -1

    def get_max_length(self) -> int:
        """Return the same (newer ones)."""
        return self.get_max_cache_shape()


class Reader:
    """Reads tokens with a network and keeps what the network keeps: K/V, states of recurrent layers, or nothing.

    A network that keeps nothing reads everything again at each step.
    """

    def __init__(self, model: Any, kept: Any = None, **fixed: Any) -> None:
        """Look at what the network takes, once, and :meth:`begin`."""
        accepted = inspect.signature(model.forward).parameters
        self._model, self._accepted = model, accepted
        self._name = next((name for name in _KEPT if name in accepted), None)
        self._tokens = "decoder_input_ids" if model.config.is_encoder_decoder else "input_ids"
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self.begin(kept, **fixed)

    def begin(self, kept: Any = None, **fixed: Any) -> None:
        """Forget what was read. ``kept`` is a cache (None: the network's own), ``fixed`` goes along with every call."""
        self.fixed, self._seen = fixed, None
        self.kept = _attention_alone(self._model) if kept is None else kept

    def read(self, ids: Any, call: Any = None, **more: Any) -> Any:
        """Return the logits after the last of ``ids`` [B, n], shape [B, 1, vocabulary].

        ``call`` stands for the network, as its compiled form does; ``more`` is passed where the network takes it.
        """
        return self._read(ids, call, {**self._last, **more})[:, -1:]

    def rows(self, ids: Any, kept: Any, size: int) -> Iterator[NDArray[np.float32]]:
        """Give the logits ``[vocabulary]`` after each of ``ids`` [1, n], ``size`` of them read at once.

        It begins again, with ``kept`` emptied (None: what the network makes itself).
        """
        import torch

        if kept is not None:
            kept.reset()
        self.begin(kept)
        for piece in ids.split(size, dim=1):
            with torch.inference_mode():
                rows = self._read(piece, None, {})[0, -piece.shape[1] :].float().cpu().numpy()
            yield from rows
            # Not two pieces at a time.
            del rows

    def _read(self, ids: Any, call: Any, more: dict[str, Any]) -> Any:
        import torch

        more = {name: value for name, value in more.items() if name in self._accepted}
        passed: dict[str, Any] = {"use_cache": True} if self._name is not None else {}
        if self._name is None or (self.kept is None and self._seen is not None):
            self._seen = ids = ids if self._seen is None else torch.cat([self._seen, ids], dim=1)
        elif self.kept is not None:
            passed[self._name] = self.kept
        result = (self._model if call is None else call)(**{self._tokens: ids}, **self.fixed, **passed, **more)
        self.kept = next((result[name] for name in _KEPT if result.get(name) is not None), None)
        if self.kept is None:
            self._seen = ids
        return result.logits


def cache_of(layers: Sequence[CacheLayer]) -> Any:
    """Return transformers' cache over layers of our own."""
    from transformers.cache_utils import Cache, CacheLayerMixin

    # It asks its layers whether they are attention's; this makes them so without inheriting anything.
    CacheLayerMixin.register(CacheLayer)
    return _answering_for_states(Cache(layers=list(layers)))


def _answering_for_states(cache: Any) -> Any:
    """Let a cache of attention layers alone say that it has no state; returns it.

    transformers' hybrid networks ask for one even where their config has no recurrent layer, and get an error.
    """
    # A cache that held itself would stay, with all its K/V, until Python looks for cycles: a worker hardly ever does.
    itself = weakref.proxy(cache)
    cache.has_previous_state = lambda *_: itself.get_seq_length() > 0
    return cache


def _attention_alone(model: Any) -> Any:
    """Return a cache for a hybrid network whose config asks for attention alone, else None: it makes its own."""
    kinds = getattr(model.config, "layer_types", None) or getattr(model.config, "layers_block_type", None)
    states = any(hasattr(model.config, name) for name in ("mamba_d_state", "mamba_n_heads"))
    if not states or not kinds or set(kinds) - {"attention", "full_attention"}:
        return None
    from transformers import DynamicCache

    return _answering_for_states(DynamicCache(config=model.config))


def layer_windows(model: Any, layers: int) -> list[int | None] | None:
    """Return the attention window of each of the decoder's ``layers`` (None: it sees everything).

    None instead of a list where layers keep something else than K/V, or the network takes no cache.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    accepted = inspect.signature(model.forward).parameters
    if not {"cache", "past_key_values"} & set(accepted):
        return None
    decoder = model.get_decoder() if model.config.is_encoder_decoder else model
    kinds = DynamicCache(config=decoder.config).layers
    if all(type(layer) is DynamicLayer for layer in kinds):
        # Some configs give the number of the encoder's layers here.
        return [None] * layers
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in kinds):
        return None
    return [layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None for layer in kinds]
