"""The catalog: counts, pairs, sources, and that every entry resolves."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from slmbench.errors import BadInputError
from slmbench.models import catalog
from slmbench.models.checkpoint import resolve

ENTRIES = catalog.entries()
#: Counts published with the released models (model cards, safetensors headers, keras-hub's presets).
PUBLISHED = {
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "flan-t5-base": 247_577_856,
    "bart-base": 139_420_416,
    "bart-large": 406_291_456,
    "t5gemma-s-s": 312_517_632,
    "t5gemma-b-b": 591_490_560,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm3-3b": 3_075_098_624,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
    "llama3.2-1b": 1_235_814_400,
    "phi-3.5-mini": 3_821_079_552,
    "mistral-7b": 7_241_732_096,
}


def test_names_and_networks_are_unique() -> None:
    assert max(Counter(entry.name for entry in ENTRIES).values()) == 1
    assert max(Counter(entry.digest() for entry in ENTRIES).values()) == 1


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.pair], ids=lambda e: e.name)
def test_pairs_are_of_two_families_and_one_size(entry: catalog.CatalogEntry) -> None:
    other = catalog.get(entry.pair or "")
    assert other.family != entry.family
    ratio = entry.parameter_count / other.parameter_count
    assert abs(ratio - 1) <= catalog.PAIR_TOLERANCE
    assert resolve(entry.name).geometry.vocab_size == resolve(other.name).geometry.vocab_size


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_shapes_have_the_published_number_of_parameters(name: str) -> None:
    assert catalog.get(name).parameter_count == PUBLISHED[name]


def test_a_shape_with_pictures_has_the_published_number_of_parameters() -> None:
    # Both parts together: the safetensors header of HuggingFaceTB/SmolVLM-256M-Instruct.
    assert catalog.get("smolvlm-256m").total_parameters == 256_484_928
    # arXiv 2311.06242 says 0.23B; it is BART-base's text part, and no other, that gives this.
    assert round(catalog.get("florence-2-base").total_parameters / 1e9, 2) == 0.23


def test_both_of_a_pair_with_pictures_have_one_vision_part() -> None:
    for size in ("tiny", "small"):
        first, second = (resolve(f"{kind}-vision-{size}") for kind in ("mu", "dec"))
        assert first.vision == second.vision is not None
        assert catalog.get(first.name).config == catalog.get(f"mu-{size}").config


def test_the_papers_shape() -> None:
    splits = {name: resolve(name).geometry for name in ("mu-330m", "mu-330m-half", "mu-330m-third")}
    layers = [(g.encoder_layers, g.decoder_layers) for g in splits.values()]
    assert layers == [(20, 10), (15, 15), (10, 20)]
    for g in splits.values():
        assert (g.width, g.heads * g.head_dim, g.kv_heads * g.head_dim) == (1024, 384, 192)
        assert g.vocab_size == 32128
        assert g.tied_embeddings
        assert g.shared_embedding
    # The FFN of two matrices of 4096 and ours of three, within 1 %.
    assert abs(3 * splits["mu-330m"].ffn_width / (2 * 4096) - 1) < 0.01


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_every_entry_resolves_with_its_source(entry: catalog.CatalogEntry) -> None:
    checkpoint = resolve(entry.name)
    assert checkpoint.family == entry.family
    assert checkpoint.parameter_count == entry.parameter_count
    assert checkpoint.digest == entry.digest()
    assert (checkpoint.decoder_start_token_id is None) == (entry.family == "decoder-only")
    assert checkpoint.eos_token_ids
    assert entry.source
    assert entry.shape_of
    if entry.name.startswith(("mu-", "dec-")):
        assert (checkpoint.geometry.max_input_tokens or 0) >= 8192 + 128
    if entry.name.endswith("-tiny"):
        assert entry.parameter_count < 10_000_000


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInputError, match="mu-tiny"):
        catalog.get("mu-tinny")


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_counts_on_the_meta_device(entry: catalog.CatalogEntry) -> None:
    """transformers' own network of each config, without memory, has the parameters the catalog says."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    kind = transformers.AutoModelForCausalLM
    if entry.family == "encoder-decoder":
        kind = transformers.AutoModelForSeq2SeqLM
    with torch.device("meta"):
        model = kind.from_config(transformers.AutoConfig.for_model(**entry.config))
    model.tie_weights()
    text = [one for path, one in model.named_parameters() if not re.search("vision_tower|multi_modal", path)]
    count = sum(parameter.numel() for parameter in text)
    geometry = resolve(entry.name).geometry
    embedding = geometry.vocab_size * geometry.width
    if entry.config.get("slmbench_shared_embedding"):
        count -= embedding
    if entry.architecture == "t5" and not geometry.tied_embeddings:
        # transformers 5 ties every T5 until it sees two embeddings in the weights.
        count += embedding
    assert count == entry.parameter_count
