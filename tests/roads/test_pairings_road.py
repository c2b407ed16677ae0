"""A pair by equal task scores, from the typed command to the sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slmbench.cli import run_main

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
pytestmark = pytest.mark.slow
SHORT = ["--output-tokens", "4", "--repeat", "2", "--threads", "1"]


def checkpoint(folder: Path, model_type: str, **sizes: Any) -> Path:
    """Save a tiny checkpoint that counts as trained, with a tokenizer of bytes."""
    import torch
    import transformers
    from test_tasks_road import save_tokenizer

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, vocab_size=300, pad_token_id=0, eos_token_id=1, **sizes)
    auto = transformers.AutoModelForCausalLM if model_type == "llama" else transformers.AutoModelForSeq2SeqLM
    auto.from_config(config).eval().save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def test_equal_scores_are_shown_from_the_command_to_the_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both models answer all of 80 items wrong: enough to show that they are alike."""
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4}
    llama = checkpoint(tmp_path / "only", "llama", hidden_size=64, intermediate_size=128, **shape)
    t5 = checkpoint(tmp_path / "both", "t5", d_model=64, d_ff=128, d_kv=16, num_layers=2, num_heads=4,
                    decoder_start_token_id=0)  # fmt: skip
    tasks, out = tmp_path / "tasks.jsonl", tmp_path / "run"
    lines = [{"prompt": f"{number} + 1?", "metric": "number", "answer": "123456789"} for number in range(80)]
    tasks.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pair = ["run", "--pair", f"{t5},{llama},quality", "--backend", "onnxruntime", "--input-tokens", "16", *SHORT]
    assert run_main([*pair, "--dry-run"]) == 2
    assert "add tasks (--tasks FILE)" in capsys.readouterr().err
    assert run_main([*pair, "--tasks", str(tasks), "--max-new-tokens", "4", "--out", str(out)]) == 0
    assert "Pairing quality: equal task scores (0.000 and 0.000 over 80 items" in (out / "table.md").read_text()
