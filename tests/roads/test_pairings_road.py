"""Pairs by name, from the typed command to the sentence: equal decoders, and equal task scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slmbench.cli import run_main

pytest.importorskip("torch", reason="exporting needs slmbench[export]")
pytestmark = pytest.mark.slow
SHORT = ["--output-tokens", "4", "--repeat", "2", "--threads", "1"]


def rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run_main(["table", str(folder), "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_equal_decoders_from_the_command_to_the_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """T5Gemma 2 against the Gemma 3 that its decoder is, on three engines: every golden token, and what it holds."""
    engines = ("torch", "openvino", "onnxruntime")
    out = tmp_path / "run"
    asked = ["run", "--pair", "t5gemma2-tiny,gemma3-tiny,decoder", "--backend", ",".join(engines)]
    assert run_main([*asked, "--input-tokens", "16", *SHORT, "--out", str(out)]) == 0
    found = rows(out, capsys)
    assert {(row["model"], row["backend"]) for row in found} == {
        (model, engine) for model in ("t5gemma2-tiny", "gemma3-tiny") for engine in engines
    }
    assert {row["agreement"] for row in found} == {1.0}
    page = (out / "table.md").read_text()
    sentences = [line for line in page.splitlines() if "than gemma3-tiny" in line]
    assert len(sentences) == len(engines)
    assert all(
        "Pairing decoder: equal decoders, not equal sizes (1.0M parameters against 0.6M" in one for one in sentences
    )
    assert all("memory " in one and "loading takes " in one for one in sentences)
    # A step of both reads the same weights; the pair of equal size is refused with the numbers.
    read = {info["case"]["checkpoint"]: info["decode_weight_bytes"] for info in _cases(out) if _engine(info) == "torch"}
    assert read["t5gemma2-tiny"] == read["gemma3-tiny"]
    assert run_main(["run", "--pair", "t5gemma2-tiny,gemma3-tiny", "--dry-run"]) == 2
    assert "1.0M and 0.6M parameters are 77% apart" in capsys.readouterr().err


def _cases(out: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((out / "run.json").read_text())["cases"]
    return cases


def _engine(info: dict[str, Any]) -> str:
    return str(info["engine"])


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
