"""The catalog's checkpoints that take pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from slmbench.models import catalog_configs
from slmbench.models.catalog_entry import CatalogEntry


def with_pictures(pairs: Iterable[CatalogEntry], gemma3: Mapping[str, Any]) -> list[CatalogEntry]:
    """Return the checkpoints that take pictures: pairs with one vision part in both, and released shapes.

    ``pairs`` are entries of text alone, ``gemma3`` the sizes of each side of the smallest T5Gemma 2.
    """
    sizes: dict[str, dict[str, int]] = {
        # Chosen small, for tests; and a ViT-S/16 (arXiv 2012.12877) with queries as few as a short prompt's tokens.
        "tiny": {"width": 64, "layers": 2, "heads": 2, "image": 64, "patch": 16, "queries": 8, "resampler_layers": 1},
        "small": {
            "width": 384, "layers": 12, "heads": 6, "image": 224, "patch": 16, "queries": 32, "resampler_layers": 2,
        },
    }  # fmt: skip
    source = "arXiv 2501.16273; the vision part is a ViT-S/16 (arXiv 2012.12877) with Flamingo's resampler (2204.14198)"

    def behind(name: str) -> CatalogEntry:
        text, (kind, size) = next(one for one in pairs if one.name == name), name.split("-")
        whole = catalog_configs.pictures_in_front(text.config, **sizes[size])
        shape, other = f"{name} behind a vision part", {"mu": "dec", "dec": "mu"}[kind]
        return replace(
            text,
            name=f"{kind}-vision-{size}",
            shape_of=shape,
            source=source,
            pair=f"{other}-vision-{size}",
            whole=whole,
        )

    both = (behind(f"{kind}-{size}") for size in sizes for kind in ("mu", "dec"))
    return [*both, *_of_released_shapes(gemma3)]


def _of_released_shapes(gemma3: Mapping[str, Any]) -> list[CatalogEntry]:
    smollm2 = catalog_configs.decoder(
        "llama", width=576, layers=30, heads=9, kv_heads=3, ffn=1536, vocab=49280, positions=8192, tied=False,
        rope_theta=100000.0,
    )  # fmt: skip
    smolvlm = CatalogEntry(
        "smolvlm-256m", "decoder-only", "llama", smollm2, "HuggingFaceTB/SmolVLM-256M-Instruct",
        "config.json of HuggingFaceTB/SmolVLM-256M-Instruct", whole=catalog_configs.smolvlm(smollm2),
    )  # fmt: skip
    so400m = {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
        "image_size": 896, "patch_size": 14,
    }  # fmt: skip
    base = {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 16,
    }  # fmt: skip
    t5gemma2 = CatalogEntry(
        "t5gemma2-270m-270m-vision", "encoder-decoder", "t5gemma2",
        catalog_configs.t5gemma2_vision(so400m, 256, **gemma3), "google/t5gemma-2-270m-270m",
        "arXiv 2512.14856 and Gemma 3's config.json: SigLIP so400m/14 at 896, 256 image tokens",
    )  # fmt: skip
    scaled = CatalogEntry(
        "t5gemma2-270m-270m-vision-224", "encoder-decoder", "t5gemma2",
        catalog_configs.t5gemma2_vision(base, 49, **gemma3), "scaled from google/t5gemma-2-270m-270m",
        "t5gemma2-270m-270m-vision with the vision part of google/siglip-base-patch16-224, 49 image tokens",
    )  # fmt: skip
    # BART-base's; after its own tokens come those of places, tasks and pictures, up to a multiple of 64.
    bart = catalog_configs.bart(width=768, layers=6, heads=12, ffn=3072, vocab=51328)
    florence2 = CatalogEntry(
        "florence-2-base", "encoder-decoder", "bart", bart, "microsoft/Florence-2-base",
        "arXiv 2311.06242 (its 0.23B parameters are those of BART-base's text part) and transformers' conversion",
        whole=catalog_configs.florence2(bart),
    )  # fmt: skip
    return [smolvlm, florence2, *(replace(entry, whole=entry.config) for entry in (t5gemma2, scaled))]
