"""Named architectures with seeded random weights: the latency of trained ones, without a download.

An entry is data: a ``transformers`` model type and the keyword arguments of its config. Weights are drawn from
the entry's name-independent seed by ``slmbench.export.torch_model``, so one name is the same bytes on every machine.
Nothing here imports torch or transformers.
"""

from __future__ import annotations

from typing import Any

from slmbench.errors import BadInputError, nearest
from slmbench.models import catalog_configs
from slmbench.models.catalog_entry import WEIGHTS_SCHEME, WEIGHTS_SEED, CatalogEntry, Config
from slmbench.models.catalog_pictures import with_pictures
from slmbench.terms import Family

__all__ = [
    "PAIR_TOLERANCE", "WEIGHTS_SCHEME", "WEIGHTS_SEED", "CatalogEntry", "export_bytes", "find", "get", "names",
    "overview", "run_bytes",
]  # fmt: skip

#: Two checkpoints of a pair differ in parameters by at most this share.
PAIR_TOLERANCE = 0.02

_PAPER = "arXiv 2501.16273 and its released code"


_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


_GEMMA3 = {"heads": 4, "kv_heads": 1, "head_dim": 256, "vocab": 262144, "window": 512, "every": 6}
_GEMMA3_270M = {**_GEMMA3, "width": 640, "layers": 18, "ffn": 2048}
_GEMMA3_1B = {**_GEMMA3, "width": 1152, "layers": 26, "ffn": 6912}


def _config_json(repository: str) -> str:
    return f"config.json of {repository}"


def _pairs() -> list[CatalogEntry]:
    """Return the encoder-decoders of the paper's kind and the decoder-only models they are compared with.

    The paper's 330M: 20 + 10 layers, width 1024, 6 heads and 3 K/V heads of 64, FFN of 2 x 4096, vocabulary
    32,128. transformers wants the width to be a multiple of the heads and gates the FFN, so the same matrix
    sizes are 4 heads and 2 K/V heads of 96, and 3 x 2752 (2731 would be equal; 2752 is the next multiple of 64,
    which group-wise int4 weights and SIMD registers want). A decoder layer has cross-attention on top, so splits
    with more decoder layers would have more parameters: their FFN is narrower by multiples of 64 instead, and
    all three stay within 1 % of the one dec-330m.
    """
    released = "the paper's released 330M"
    scaled = "the paper's 330M, scaled"
    shape = {"width": 1024, "heads": 4, "head_dim": 96}
    tiny = {"width": 256, "heads": 4, "head_dim": 64, "vocab": 2048}
    small = {"width": 512, "heads": 8, "head_dim": 64, "ffn": 1536}
    billion = {"width": 1536, "heads": 8, "head_dim": 64, "ffn": 4096}

    def mu(name: str, pair: str, shape_of: str, source: str, **sizes: Any) -> CatalogEntry:
        return CatalogEntry(name, "encoder-decoder", "t5gemma", catalog_configs.mu(**sizes), shape_of, source, pair)

    def dec(name: str, pair: str, **sizes: int) -> CatalogEntry:
        text = f"a Llama as wide as {pair}"
        return CatalogEntry(name, "decoder-only", "llama", catalog_configs.dec(**sizes), text, _PAPER, pair)

    return [
        mu("mu-tiny", "dec-tiny", scaled, _PAPER, **tiny, encoder_layers=4, decoder_layers=2, ffn=512),
        dec("dec-tiny", "mu-tiny", **tiny, layers=8, ffn=384),
        mu("mu-small", "dec-small", scaled, _PAPER, **small, encoder_layers=8, decoder_layers=4),
        dec("dec-small", "mu-small", **small, layers=13),
        mu("mu-330m", "dec-330m", released, _PAPER, **shape, encoder_layers=20, decoder_layers=10, ffn=2752),
        mu(
            "mu-330m-half", "dec-330m", released + ", split 1/2-1/2", _PAPER, **shape,
            encoder_layers=15, decoder_layers=15, ffn=2688,
        ),
        mu(
            "mu-330m-third", "dec-330m", released + ", split 1/3-2/3", _PAPER, **shape,
            encoder_layers=10, decoder_layers=20, ffn=2624,
        ),
        dec("dec-330m", "mu-330m", **shape, layers=31, ffn=2752),
        mu("mu-1b", "dec-1b", scaled, _PAPER, **billion, encoder_layers=28, decoder_layers=14),
        dec("dec-1b", "mu-1b", **billion, layers=44),
        # Partners of released decoder-only models: their width, vocabulary and K/V heads; two thirds encoder.
        mu(
            "mu-4b", "qwen3-4b", "the paper's split at the size of Qwen3-4B", _PAPER, width=2560, heads=16,
            head_dim=128, encoder_layers=24, decoder_layers=12, ffn=10432, vocab=151936,
        ),
        mu(
            "mu-7b", "mistral-7b", "the paper's split at the size of Mistral-7B", _PAPER, width=4096, heads=16,
            head_dim=128, encoder_layers=22, decoder_layers=11, ffn=14784, vocab=32000,
        ),
    ]  # fmt: skip


def _stand_ins() -> list[CatalogEntry]:
    """Return the shapes that stand in for those of papers, where those are larger or released nowhere.

    "thin": nearly all layers are the encoder's (arXiv 2503.06594 puts a small decoder on a large language model).
    "A-B": an encoder of dec-A's layers and a decoder of dec-B's (arXiv 2504.06225 pairs 9B with 9B and with 2B).
    "split": a T5Gemma 2 whose decoder has self- and cross-attention apart (arXiv 2512.14856 merges them).
    """
    shape: dict[str, Any] = {"width": 1024, "heads": 4, "head_dim": 96, "ffn": 2752}
    small: dict[str, Any] = {"width": 512, "heads": 8, "head_dim": 64, "ffn": 1536}
    adapted, thin = "arXiv 2504.06225, scaled down", "arXiv 2503.06594, scaled down"

    def mu(name: str, shape_of: str, source: str, pair: str | None = None, **sizes: Any) -> CatalogEntry:
        return CatalogEntry(name, "encoder-decoder", "t5gemma", catalog_configs.mu(**sizes), shape_of, source, pair)

    def split(size: str, side: dict[str, int]) -> CatalogEntry:
        name, config = f"t5gemma2-{size}", catalog_configs.t5gemma2_split(**side)
        source = "arXiv 2512.14856, of which it is the network before attention is merged"
        return CatalogEntry(f"{name}-split", "encoder-decoder", "t5gemma", config, f"{name}, attention apart", source)

    deep, both = "a deep encoder with a thin decoder", "two stacks of a decoder-only model"
    return [
        mu("mu-330m-thin", deep, thin, "dec-330m", **shape, encoder_layers=26, decoder_layers=4),
        mu("mu-small-thin", deep, thin, "dec-small", **small | {"ffn": 1600}, encoder_layers=10, decoder_layers=2),
        mu("mu-330m-330m", both, adapted, **shape, encoder_layers=31, decoder_layers=31),
        mu("mu-small-small", both, adapted, **small, encoder_layers=13, decoder_layers=13),
        mu("mu-330m-small", both, adapted, **small, encoder_layers=31, decoder_layers=13, encoder=shape),
        split("270m-270m", _GEMMA3_270M),
        split("1b-1b", _GEMMA3_1B),
    ]


def _encoder_decoders() -> list[CatalogEntry]:
    def entry(name: str, architecture: str, config: Config, shape_of: str, source: str = "") -> CatalogEntry:
        return CatalogEntry(name, "encoder-decoder", architecture, config, shape_of, source or _config_json(shape_of))

    keras = "arXiv 2504.06225 and keras-hub's T5Gemma presets (same parameter counts)"
    adapted = "Gemma 3's config.json on both sides, as arXiv 2512.14856 adapts it, and transformers' T5Gemma2Config"
    return [
        entry(
            "t5-small",
            "t5",
            catalog_configs.t5(width=512, layers=6, heads=8, head_dim=64, ffn=2048),
            "google-t5/t5-small",
        ),
        entry(
            "t5-base",
            "t5",
            catalog_configs.t5(width=768, layers=12, heads=12, head_dim=64, ffn=3072),
            "google-t5/t5-base",
        ),
        entry(
            "flan-t5-base",
            "t5",
            catalog_configs.t5(width=768, layers=12, heads=12, head_dim=64, ffn=2048, gated=True),
            "google/flan-t5-base",
        ),
        entry("bart-base", "bart", catalog_configs.bart(width=768, layers=6, heads=12, ffn=3072), "facebook/bart-base"),
        entry(
            "bart-large", "bart", catalog_configs.bart(width=1024, layers=12, heads=16, ffn=4096), "facebook/bart-large"
        ),
        entry(
            "marian-en-de",
            "marian",
            catalog_configs.marian(width=512, layers=6, heads=8, ffn=2048, vocab=58101),
            "Helsinki-NLP/opus-mt-en-de",
        ),
        entry(
            "t5gemma-s-s",
            "t5gemma",
            catalog_configs.t5gemma(
                width=512, layers=8, heads=8, kv_heads=8, head_dim=64, ffn=1024, vocab=256000, window=4096
            ),
            "google/t5gemma-s-s-ul2",
            keras,
        ),
        entry(
            "t5gemma-b-b",
            "t5gemma",
            catalog_configs.t5gemma(
                width=768, layers=12, heads=12, kv_heads=12, head_dim=64, ffn=2048, vocab=256000, window=4096
            ),
            "google/t5gemma-b-b-ul2",
            keras,
        ),
        *(
            entry(f"t5gemma2-{size}", "t5gemma2", catalog_configs.t5gemma2(**side), f"google/t5gemma-2-{size}", adapted)
            for size, side in (("270m-270m", _GEMMA3_270M), ("1b-1b", _GEMMA3_1B))
        ),
    ]


def _decoder_only() -> list[CatalogEntry]:
    def entry(name: str, config: dict[str, Any], shape_of: str) -> CatalogEntry:
        return CatalogEntry(name, "decoder-only", config["model_type"], config, shape_of, _config_json(shape_of))

    def smollm2(width: int, layers: int, heads: int, kv_heads: int, ffn: int) -> dict[str, Any]:
        return catalog_configs.decoder(
            "llama", width=width, layers=layers, heads=heads, kv_heads=kv_heads, ffn=ffn, vocab=49152,
            positions=8192, tied=True, rope_theta=100000.0,
        )  # fmt: skip

    def qwen3(width: int, layers: int, heads: int, ffn: int) -> dict[str, Any]:
        return catalog_configs.decoder(
            "qwen3", width=width, layers=layers, heads=heads, kv_heads=8, head_dim=128, ffn=ffn, vocab=151936,
            positions=40960, tied=True, rope_theta=1_000_000.0,
        )  # fmt: skip

    smollm3 = catalog_configs.decoder(
        "smollm3", width=2048, layers=36, heads=16, kv_heads=4, ffn=11008, vocab=128256, positions=65536, tied=True,
        rope_theta=5_000_000.0, no_rope_layer_interval=4,
    )  # fmt: skip
    llama32 = catalog_configs.decoder(
        "llama", width=2048, layers=16, heads=32, kv_heads=8, head_dim=64, ffn=8192, vocab=128256, positions=131072,
        tied=True, rope_parameters=_LLAMA3_ROPE,
    )  # fmt: skip
    # The released model's long-RoPE tables scale angles by position; they cost nothing and are left out.
    phi35 = catalog_configs.decoder(
        "phi3", width=3072, layers=32, heads=32, kv_heads=32, ffn=8192, vocab=32064, positions=131072, tied=False,
        sliding_window=262144,
    )  # fmt: skip
    mistral = catalog_configs.decoder(
        "mistral", width=4096, layers=32, heads=32, kv_heads=8, ffn=14336, vocab=32000, positions=32768, tied=False,
        sliding_window=4096,
    )  # fmt: skip
    return [
        entry("smollm2-135m", smollm2(576, 30, 9, 3, 1536), "HuggingFaceTB/SmolLM2-135M"),
        entry("smollm2-360m", smollm2(960, 32, 15, 5, 2560), "HuggingFaceTB/SmolLM2-360M"),
        entry("smollm3-3b", smollm3, "HuggingFaceTB/SmolLM3-3B"),
        entry("qwen3-0.6b", qwen3(1024, 28, 16, 3072), "Qwen/Qwen3-0.6B"),
        entry("qwen3-1.7b", qwen3(2048, 28, 16, 6144), "Qwen/Qwen3-1.7B"),
        entry("qwen3-4b", qwen3(2560, 36, 32, 9728), "Qwen/Qwen3-4B"),
        entry("gemma3-270m", catalog_configs.gemma3(**_GEMMA3_270M), "google/gemma-3-270m"),
        entry("gemma3-1b", catalog_configs.gemma3(**_GEMMA3_1B), "google/gemma-3-1b-pt"),
        entry("llama3.2-1b", llama32, "meta-llama/Llama-3.2-1B"),
        entry("phi-3.5-mini", phi35, "microsoft/Phi-3.5-mini-instruct"),
        entry("mistral-7b", mistral, "mistralai/Mistral-7B-v0.1"),
    ]


def _tiny() -> list[CatalogEntry]:
    """Return one architecture of each kind that exports and runs in a second: for tests."""
    text = "none, for tests"

    def entry(name: str, family: Family, config: dict[str, Any]) -> CatalogEntry:
        return CatalogEntry(name, family, config["model_type"], config, text, "chosen small")

    def decoder(model_type: str, **more: Any) -> dict[str, Any]:
        sizes: dict[str, Any] = {
            "width": 128, "layers": 2, "heads": 4, "kv_heads": 2, "ffn": 256, "vocab": 1024, "positions": 4096,
            "tied": True,
        }  # fmt: skip
        return catalog_configs.decoder(model_type, **(sizes | more))

    gemma3: dict[str, Any] = {
        "width": 128, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 32, "ffn": 256, "vocab": 1024, "window": 16,
        "every": 3,
    }  # fmt: skip
    small: dict[str, Any] = {"width": 128, "layers": 2, "heads": 4, "ffn": 256, "vocab": 1024}
    return [
        entry("t5-tiny", "encoder-decoder", catalog_configs.t5(**small, head_dim=32)),
        entry("flan-t5-tiny", "encoder-decoder", catalog_configs.t5(**small, head_dim=64, gated=True)),
        entry("bart-tiny", "encoder-decoder", catalog_configs.bart(**small)),
        entry("marian-tiny", "encoder-decoder", catalog_configs.marian(**small)),
        entry("t5gemma-tiny", "encoder-decoder", catalog_configs.t5gemma(**small, kv_heads=2, head_dim=32, window=16)),
        entry("t5gemma2-tiny", "encoder-decoder", catalog_configs.t5gemma2(**gemma3)),
        entry("llama-tiny", "decoder-only", decoder("llama")),
        entry("qwen3-tiny", "decoder-only", decoder("qwen3", head_dim=64)),
        entry("phi3-tiny", "decoder-only", decoder("phi3", tied=False)),
        entry("mistral-tiny", "decoder-only", decoder("mistral", tied=False, sliding_window=16)),
        entry("gemma3-tiny", "decoder-only", catalog_configs.gemma3(**gemma3)),
        entry("smollm3-tiny", "decoder-only", decoder("smollm3", no_rope_layer_interval=2)),
    ]


def entries() -> list[CatalogEntry]:
    """Return all entries in the order they are listed: pairs, real shapes, tiny ones."""
    return [
        *_pairs(),
        *with_pictures(_pairs(), _GEMMA3_270M),
        *_stand_ins(),
        *_encoder_decoders(),
        *_decoder_only(),
        *_tiny(),
    ]


def names() -> list[str]:
    """Return the names of all entries."""
    return [entry.name for entry in entries()]


def find(name: str) -> CatalogEntry | None:
    """Return the entry with that name, or None."""
    return next((entry for entry in entries() if entry.name == name), None)


def get(name: str) -> CatalogEntry:
    """Return the entry with that name.

    Raises:
        BadInputError: there is none.
    """
    entry = find(name)
    if entry is None:
        raise BadInputError(f"no catalog entry '{name}'.{nearest(name, names())} `slmbench models` lists them")
    return entry


def overview() -> list[dict[str, Any]]:
    """Return one row an entry, with whether this machine has the memory now to run it, and to export it, in fp32."""
    import psutil

    available = psutil.virtual_memory().available
    return [
        {
            "name": entry.name,
            "family": entry.family,
            "architecture": entry.architecture,
            "parameter_count": entry.parameter_count,
            "shape_of": entry.shape_of,
            "source": entry.source,
            "pair": entry.pair,
            "vision_parameter_count": entry.vision_parameter_count,
            "digest": entry.digest(),
            "fits_run": available >= run_bytes(entry.total_parameters),
            "fits_export": available >= export_bytes(entry.total_parameters),
        }
        for entry in entries()
    ]


def run_bytes(parameter_count: int, *, copies: int = 1) -> int:
    """Return about how much memory a session in fp32 takes: the weights, a tenth for K/V and buffers, an engine."""
    return parameter_count * (40 * copies + 4) // 10 + 300_000_000


def export_bytes(parameter_count: int, *, copies: int = 2) -> int:
    """Return about how much memory an export takes: fp32 copies in torch and in the exporter, and the libraries."""
    return parameter_count * 4 * copies + 800_000_000
