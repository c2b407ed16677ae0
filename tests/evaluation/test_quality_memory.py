"""What judging holds in memory does not grow with the text, nor with the vocabulary more than a few rows of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rotation import in_turn
from scripts_by_path import load_script

import slmbench

pytest.importorskip("torch", reason="needs slmbench[torch]")
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "quality_memory.py"
VOCABULARY = 150_000
#: Bytes of the fp32 logits of one window of 128 tokens; those of all four windows are 307 MB.
WINDOW_BYTES = 128 * VOCABULARY * 4


@pytest.fixture
def benchmark() -> Any:
    return load_script("benchmarks/quality_memory.py")


def checkpoint(folder: Path) -> Path:
    """Save a network of two narrow layers that knows 150,000 tokens, with a tokenizer of bytes."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, eos_token_id=2, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={text: place + 4 for place, text in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("backend", in_turn(("torch", "llama_cpp", "onnxruntime"), 3))
@pytest.mark.slow
def test_no_array_of_tokens_by_vocabulary_is_held(benchmark: Any, backend: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{number} herons. " for number in range(45))[:512], encoding="utf-8")
    with benchmark.watched() as watch:
        found = slmbench.quality(str(checkpoint(tmp_path / "model")), text=text, backend=backend)
    assert found.windows == len(watch.windows) == 4
    assert max(watch.windows) - watch.held < WINDOW_BYTES
    # The second half of the text adds nothing: the reference's predictions of it alone are 77 MB.
    assert max(watch.windows[2:]) - max(watch.windows[:2]) < 0.5 * WINDOW_BYTES
