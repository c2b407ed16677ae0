"""A catalog entry's network without torch: its parameters, drawn from the seed by NumPy, under transformers' names.

What is here has the attributes that slmbench's own exporters read of a transformers network, so that they take either.
The bytes are the same everywhere, with every version of NumPy: raw bits of PCG64 (whose stream is fixed), scaled by one
exact multiplication. ``tests/models/test_catalog_network.py`` compares every parameter with torch's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.models import catalog

#: Elements drawn at a time: limits the memory needed in addition to the weights.
_CHUNK = 1 << 20
#: Deviations of normalisation weights, and what queries are larger by (see ``slmbench.export.torch_model``).
NORM_DEVIATION, QUERY_GAIN = 0.05, 1.5
#: What transformers' configs of these types have where the catalog says nothing.
_EPSILON, _ROPE_THETA = 1e-6, 10000.0


def draw(name: str, shape: tuple[int, ...], deviation: float) -> NDArray[np.float32]:
    """Return uniform values of mean 0 and the given standard deviation, fixed by the seed and the name.

    16 random bits a value; the only rounding is one float32 multiplication, which IEEE 754 fixes.
    """
    key = hashlib.sha256(f"{catalog.WEIGHTS_SEED} {name}".encode()).digest()
    bits = np.random.PCG64(int.from_bytes(key[:16], "little"))
    count = math.prod(shape)
    values = np.empty(count, dtype=np.float32)
    # 65536 levels from -32767.5 to 32767.5 have a standard deviation of 65536 / sqrt(12), nearly.
    step = np.float32(deviation * math.sqrt(12) / 65536)
    for start in range(0, count, _CHUNK):
        part = values[start : start + _CHUNK]
        raw = bits.random_raw((part.size + 3) // 4).astype("<u8", copy=False).view("<u2")
        np.subtract(raw[: part.size], np.float32(32767.5), out=part, dtype=np.float32)
        part *= step
    return values.reshape(shape)


class Leaf:
    """A module with one parameter, ``weight``, which is drawn when it is asked for."""

    bias = None

    def __init__(self, name: str, shape: tuple[int, ...], deviation: float, centre: float = 0.0) -> None:
        self.name, self.shape = f"{name}.weight", shape
        self._deviation, self._centre = deviation, centre
        #: Of a normalisation.
        self.variance_epsilon = _EPSILON

    @cached_property
    def weight(self) -> NDArray[np.float32]:
        """Return the parameter."""
        values = draw(self.name, self.shape, self._deviation)
        return values + np.float32(self._centre) if self._centre else values


def _linear(name: str, outputs: int, inputs: int, gain: float = 1.0) -> Leaf:
    return Leaf(name, (outputs, inputs), gain / math.sqrt(inputs))


class CatalogNetwork(SimpleNamespace):
    """The network of one entry."""

    def named_parameters(self) -> Iterator[tuple[str, Leaf]]:
        """Yield every parameter once, by the first of its names."""
        seen: dict[str, Leaf] = {}
        for leaf in _leaves(self):
            seen.setdefault(leaf.name, leaf)
        yield from seen.items()


def _leaves(node: Any) -> Iterator[Leaf]:
    if isinstance(node, Leaf):
        yield node
    elif isinstance(node, list):
        for one in node:
            yield from _leaves(one)
    elif isinstance(node, SimpleNamespace):
        for one in vars(node).values():
            yield from _leaves(one)


def is_known(name: str) -> bool:
    """Return whether a catalog entry's network can be had without torch."""
    entry = catalog.find(name)
    return entry is not None and _builder(entry) is not None


def network(name: str) -> CatalogNetwork:
    """Return the network of a catalog entry that :func:`is_known`; nothing is drawn yet."""
    entry = catalog.get(name)
    build = _builder(entry)
    assert build is not None
    return build(entry.config)


def _builder(entry: catalog.CatalogEntry) -> Callable[[Mapping[str, Any]], CatalogNetwork] | None:
    config = entry.config
    if entry.architecture == "t5gemma":
        # Capped scores, windows and embeddings of two sizes are left to torch.
        plain = config["slmbench_shared_embedding"] and all(map(_is_plain, (config["encoder"], config["decoder"])))
        return _t5gemma if plain else None
    if entry.architecture in ("llama", "qwen3", "smollm3"):
        return _llama if config["rope_parameters"]["rope_type"] == "default" else None
    return None


def _is_plain(side: Mapping[str, Any]) -> bool:
    capped = side["attn_logit_softcapping"] is not None or side["final_logit_softcapping"] is not None
    return not capped and set(side["layer_types"]) == {"full_attention"} and side["hidden_activation"] == "silu"


def _rotary(theta: float, size: int) -> SimpleNamespace:
    exponents = np.arange(0, size, 2, dtype=np.float64) / size
    return SimpleNamespace(
        rope_type="default", inv_freq=(1.0 / theta**exponents).astype(np.float32), attention_scaling=1.0
    )


def _attention(name: str, config: SimpleNamespace, scaling: float, **more: Any) -> SimpleNamespace:
    width, size = config.hidden_size, config.head_dim
    inner, kept = config.num_attention_heads * size, config.num_key_value_heads * size
    return SimpleNamespace(
        head_dim=size,
        scaling=scaling,
        q_proj=_linear(f"{name}.q_proj", inner, width, QUERY_GAIN),
        k_proj=_linear(f"{name}.k_proj", kept, width),
        v_proj=_linear(f"{name}.v_proj", kept, width),
        o_proj=_linear(f"{name}.o_proj", width, inner),
        **more,
    )


def _mlp(name: str, width: int, inner: int) -> SimpleNamespace:
    return SimpleNamespace(
        gate_proj=_linear(f"{name}.gate_proj", inner, width),
        up_proj=_linear(f"{name}.up_proj", inner, width),
        down_proj=_linear(f"{name}.down_proj", width, inner),
    )


def _llama(config: Mapping[str, Any]) -> CatalogNetwork:
    sizes = SimpleNamespace(hidden_act="silu", rms_norm_eps=_EPSILON, **config)
    sizes.get_text_config = lambda: sizes
    width, vocabulary = sizes.hidden_size, sizes.vocab_size
    if not hasattr(sizes, "head_dim"):
        sizes.head_dim = width // sizes.num_attention_heads

    if sizes.model_type == "smollm3":
        numbers = range(1, sizes.num_hidden_layers + 1)
        sizes.no_rope_layers = [int(number % sizes.no_rope_layer_interval != 0) for number in numbers]

    def norm(name: str, length: int = width) -> Leaf:
        return Leaf(name, (length,), NORM_DEVIATION, 1.0)

    def layer(index: int) -> SimpleNamespace:
        name = f"model.layers.{index}"
        more: dict[str, Any] = {}
        if sizes.model_type == "qwen3":
            more = {f"{part}_norm": norm(f"{name}.self_attn.{part}_norm", sizes.head_dim) for part in "qk"}
        if sizes.model_type == "smollm3":
            more = {"use_rope": bool(sizes.no_rope_layers[index])}
        return SimpleNamespace(
            self_attn=_attention(f"{name}.self_attn", sizes, sizes.head_dim**-0.5, **more),
            mlp=_mlp(f"{name}.mlp", width, sizes.intermediate_size),
            input_layernorm=norm(f"{name}.input_layernorm"),
            post_attention_layernorm=norm(f"{name}.post_attention_layernorm"),
        )

    embedding = Leaf("model.embed_tokens", (vocabulary, width), 1 / math.sqrt(width))
    inner = SimpleNamespace(
        embed_tokens=embedding,
        layers=[layer(index) for index in range(sizes.num_hidden_layers)],
        norm=norm("model.norm"),
        rotary_emb=_rotary(sizes.rope_parameters["rope_theta"], sizes.head_dim),
    )
    head = embedding if sizes.tie_word_embeddings else _linear("lm_head", vocabulary, width)
    return CatalogNetwork(config=sizes, model=inner, lm_head=head)


def _t5gemma(config: Mapping[str, Any]) -> CatalogNetwork:
    width = config["encoder"]["hidden_size"]
    # The Gemmas multiply embeddings by sqrt(width) on the way in.
    embedding = Leaf("model.encoder.embed_tokens", (config["vocab_size"], width), 1 / width)

    def side(role: str) -> SimpleNamespace:
        sizes = SimpleNamespace(**config[role])
        kinds = ("self", "cross") if role == "decoder" else ("self",)
        scaling = sizes.query_pre_attn_scalar**-0.5

        def layer(index: int) -> SimpleNamespace:
            name = f"model.{role}.layers.{index}"
            places = [f"{when}_{kind}_attn" for kind in kinds for when in ("pre", "post")]
            norms = [f"{place}_layernorm" for place in (*places, "pre_feedforward", "post_feedforward")]
            return SimpleNamespace(
                mlp=_mlp(f"{name}.mlp", width, sizes.intermediate_size),
                **{f"{kind}_attn": _attention(f"{name}.{kind}_attn", sizes, scaling) for kind in kinds},
                # Their weight is what they multiply by, less one.
                **{norm: Leaf(f"{name}.{norm}", (width,), NORM_DEVIATION) for norm in norms},
            )

        return SimpleNamespace(
            config=sizes,
            embed_tokens=embedding,
            layers=[layer(index) for index in range(sizes.num_hidden_layers)],
            norm=Leaf(f"model.{role}.norm", (width,), NORM_DEVIATION),
            rotary_emb=_rotary(_ROPE_THETA, sizes.head_dim),
        )

    encoder, decoder = side("encoder"), side("decoder")
    return CatalogNetwork(
        config=SimpleNamespace(decoder=decoder.config),
        model=SimpleNamespace(encoder=encoder, decoder=decoder),
        lm_head=SimpleNamespace(out_proj=embedding),
        get_encoder=lambda: encoder,
        get_decoder=lambda: decoder,
    )
