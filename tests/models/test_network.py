"""transformers' caches behind one small adapter: this file fails when transformers changes what it asks of them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import architectures
import pytest

from slmbench.models.network import CacheLayer, Reader, layer_windows, load_folder

torch = pytest.importorskip("torch", reason="needs slmbench[export]")

DECODERS = ["qwen2", "gemma2", "gemma3", "granitemoehybrid", "lfm2", "qwen3_5_text", "falcon"]


def test_a_layer_has_what_transformers_asks_of_one() -> None:
    """Every method that transformers' own layers must have is on ours, but for those that each kind brings."""
    from transformers.cache_utils import CacheLayerMixin

    brought = {"lazy_initialization", "update", "get_mask_sizes", "get_seq_length"}
    assert CacheLayerMixin.__abstractmethods__ - brought <= set(dir(CacheLayer))


def test_what_a_cache_reads_of_its_layers_is_there() -> None:
    """Properties that transformers' Cache and its masks read of a layer."""
    import re

    from transformers import cache_utils

    read = set(re.findall(r"\blayer\.([a-z_]+)", inspect.getsource(cache_utils.Cache)))
    # Asked of layers that offload, crop or reorder, which ours never do, and guarded by hasattr.
    never = {"offload", "prefetch", "crop", "reorder_cache", "batch_select_indices", "batch_size", "max_batch_size",
             "max_cache_len", "has_previous_state", "batch_repeat_interleave", "activate_past_recording",
             "conv_states", "recurrent_states"}  # fmt: skip
    brought = {"lazy_initialization", "update", "get_mask_sizes", "get_seq_length", "reset"}
    assert read - never - brought <= set(dir(CacheLayer))


@pytest.mark.parametrize("name", DECODERS)
def test_the_text_part_reads_as_the_whole_does(name: str, tmp_path: Path) -> None:
    """The loaded network, fed token by token, gives what transformers' own generate gives."""
    whole = architectures.network(name)
    whole.save_pretrained(tmp_path)
    model, lacking = load_folder(tmp_path, "decoder-only", dtype=torch.float32, attention="eager")
    assert not lacking
    assert not any("vision" in path for path, _ in model.named_parameters())
    ids = torch.randint(4, 1024, (1, 37), generator=torch.Generator().manual_seed(1))
    expected = own_answer(whole, ids)
    reader, fed, tokens = Reader(model), ids, []
    with torch.inference_mode():
        for _ in range(10):
            logits = reader.read(fed)
            assert logits.shape == (1, 1, 1024)
            fed = logits[:, -1].argmax(-1, keepdim=True)
            tokens.append(int(fed))
    assert tokens == expected


def own_answer(model: Any, ids: Any, count: int = 10) -> list[int]:
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()
    with torch.inference_mode():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    return list(map(int, found[0, ids.shape[1] :]))


def test_layers_that_keep_kv_are_told_from_those_that_keep_a_state() -> None:
    assert layer_windows(architectures.network("gemma2"), 2) == [16, None]
    assert layer_windows(architectures.network("qwen2"), 3) == [None, None, None]
    assert layer_windows(architectures.network("lfm2"), 3) is None


def test_a_network_that_keeps_nothing_reads_again() -> None:
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    torch.manual_seed(0)
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=64, n_positions=32, n_embd=32, n_layer=1, n_head=2)).eval()
    ids = torch.arange(5, 15)[None]
    with torch.inference_mode():
        reader = Reader(model)
        reader.read(ids[:, :9])
        assert torch.allclose(reader.read(ids[:, 9:]), model(ids).logits[:, -1:], atol=1e-6)
