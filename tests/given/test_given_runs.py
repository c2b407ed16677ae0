"""A file that the user has, measured as it is: from the typed command to the table, compare and check."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rotation import takes_turns

from slmbench.cli import run_main
from slmbench.export.build import ensure_artifact
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.records.schema import Run, read_run

pytestmark = pytest.mark.slow
SHORT = ("--input-tokens", "16", "--output-tokens", "8", "--repeat", "1", "--threads", "1")


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def run(what: Path, out: Path, *more: str, code: int = 0) -> Run:
    """Measure an artifact; whatever happens, nothing next to it changes."""
    assert not out.is_relative_to(what.parent)
    before = tree(what.parent)
    assert run_main(["run", "--model", str(what), *SHORT, "--out", str(out), *more]) == code
    assert tree(what.parent) == before
    return read_run(out)


def rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run_main(["table", str(folder), "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_a_gguf_from_the_command_to_the_verdict(
    q4_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(q4_gguf, tmp_path / "a")
    assert [info.case.exporter for info in made.record.cases] == ["given"]
    given = made.record.cases[0].checkpoint.given
    assert given is not None
    assert given.precision == "q4_k_m"
    assert len(given.files[0].sha256) == 64
    assert not any(load.reference for load in made.loads)
    assert all(load.agreement == 1.0 and load.agreement_tokens for load in made.loads)
    (row,) = rows(tmp_path / "a", capsys)
    assert (row["weight_precision"], row["compute_precision"], row["exporter"]) == ("q4_k_m", "int8", "given")
    assert "no reference" in row["flags"]
    assert "given" in (tmp_path / "a" / "table.md").read_text(encoding="utf-8")
    run(q4_gguf, tmp_path / "b")
    capsys.readouterr()
    assert run_main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) in (0, 1, 4)
    assert "no reference: the tokens of dec-tiny-Q4_K_M" in capsys.readouterr().out.replace("\n", " ")
    assert run_main(["check", "--baseline", str(tmp_path / "a"), str(tmp_path / "b")]) in (0, 1, 4)


def test_a_reference_proves_the_tokens(q4_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="the reference runs in torch")
    made = run(q4_gguf, tmp_path / "a", "--reference", "dec-tiny")
    assert all(load.reference and load.agreement is not None for load in made.loads)
    assert "no reference" not in rows(tmp_path / "a", capsys)[0]["flags"]
    out = str(tmp_path / "b")
    assert run_main(["run", "--model", str(q4_gguf), *SHORT, "--out", out, "--reference", "mu-tiny"]) == 2
    assert "its family is encoder-decoder" in capsys.readouterr().err


def test_a_file_with_other_weights_fails_its_reference(q4_gguf: Path, tmp_path: Path) -> None:
    """A wrong order of weights is what wrong wiring looks like: 4 bits have a floor too."""
    wrong = tmp_path / "wrong" / q4_gguf.name
    wrong.parent.mkdir()
    raw = bytearray(q4_gguf.read_bytes())
    half = len(raw) * 3 // 4
    raw[half:] = raw[half:][::-1]
    wrong.write_bytes(raw)
    made = run(wrong, tmp_path / "a", "--reference", "dec-tiny", code=5)
    assert made.failures


@takes_turns(1, 2)
@pytest.mark.slow
def test_a_t5_gguf_says_what_its_steps_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
    pytest.importorskip("torch", reason="the reference runs in torch")
    whole = ensure_artifact(resolve("t5-tiny"), ArtifactSpec(format="gguf"), progress=lambda _: None).graph("model")
    file = tmp_path / "somebodys" / "t5-F32.gguf"
    file.parent.mkdir()
    shutil.copy(whole, file)
    made = run(file, tmp_path / "a", "--reference", "t5-tiny")
    assert {load.agreement for load in made.loads} == {1.0}
    (row,) = rows(tmp_path / "a", capsys)
    assert row["flags"].split(", ").count("cross K/V computed at every step") == 1


@takes_turns(0, 2)
def test_a_genai_folder(genai_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run(genai_folder, tmp_path / "a", "--backend", "onnxruntime_genai,onnxruntime", "--reference", "llama-tiny")
    assert {info.case.backend for info in made.record.cases} == {"onnxruntime_genai", "onnxruntime"}
    found = rows(tmp_path / "a", capsys)
    assert [row["failure"] for row in found] == [None, None]
    assert {row["attention"] for row in found} == {"GroupQueryAttention"}
    # The builder's default: the LM head runs over every position.
    assert all("logits of all positions" in row["flags"] for row in found)


@takes_turns(1, 2)
def test_an_ir_folder(ir_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run(ir_folder, tmp_path / "a", "--backend", "openvino_genai,openvino", "--reference", "llama-tiny")
    assert {info.case.weight_precision for info in made.record.cases} == {"int8"}
    found = {row["backend"]: row for row in rows(tmp_path / "a", capsys)}
    assert [row["failure"] for row in found.values()] == [None, None]
    # openvino-genai slices the logits when it loads the graph.
    assert "logits of all positions" in found["openvino"]["flags"]
    assert "logits of all positions" not in found["openvino_genai"]["flags"]
    alone = run(ir_folder, tmp_path / "b")
    assert [info.case.backend for info in alone.record.cases] == ["openvino_genai"]


@takes_turns(0, 2)
def test_an_encoder_decoders_ir_folder(
    seq2seq_ir_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(seq2seq_ir_folder, tmp_path / "a", "--reference", "t5-tiny")
    (row,) = rows(tmp_path / "a", capsys)
    assert (row["family"], row["failure"], row["agreement"]) == ("encoder-decoder", None, 1.0)


@takes_turns(1, 2)
def test_transformers_js_names(genai_folder: Path, decoder_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "js"
    (folder / "onnx").mkdir(parents=True)
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        if (decoder_folder / name).exists():
            shutil.copy(decoder_folder / name, folder)
    shutil.copy(genai_folder / "model.onnx", folder / "onnx" / "model_q4.onnx")
    shutil.copy(genai_folder / "model.onnx.data", folder / "onnx")
    made = run(folder, tmp_path / "a", "--reference", "llama-tiny")
    assert [info.case.checkpoint for info in made.record.cases] == ["js:q4"]
    assert not made.failures


def test_nobody_else_takes_it(q4_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "a")
    assert run_main(["run", "--model", str(q4_gguf), *SHORT, "--backend", "openvino", "--out", out]) == 5
    assert "openvino does not run GGUF files" in capsys.readouterr().err


def test_graphs_that_give_all_k_and_v_again(decoder_folder: Path, tmp_path: Path, capsys: Any) -> None:
    """optimum's layout without a shared buffer: one graph of a decoder-only model."""
    import hf_layout
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(decoder_folder, attn_implementation="eager")
    folder = tmp_path / "hub" / "whole"
    hf_layout.write_decoder(model, model.config, folder)
    shutil.copy(decoder_folder / "config.json", folder)
    run(folder, tmp_path / "a", "--reference", "llama-tiny")
    (row,) = rows(tmp_path / "a", capsys)
    assert (row["failure"], row["agreement"], row["attention"]) == (None, 1.0, "unfused")
    assert "no shared K/V buffer" in row["flags"]
    assert "logits of all positions" in row["flags"]


def test_an_encoder_and_two_decoders(seq2seq_folder: Path, tmp_path: Path, capsys: Any) -> None:
    """optimum's layout of an encoder-decoder: the first step makes the cross K/V, later ones are fed them."""
    import hf_layout
    import transformers

    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(seq2seq_folder)
    folder = tmp_path / "hub" / "three"
    hf_layout.write_encoder_decoder(model, model.config, folder)
    shutil.copy(seq2seq_folder / "config.json", folder)
    run(folder, tmp_path / "a", "--reference", "t5-tiny")
    (row,) = rows(tmp_path / "a", capsys)
    assert (row["failure"], row["agreement"]) == (None, 1.0)


def test_an_encoder_and_a_merged_decoder(seq2seq_folder: Path, tmp_path: Path, capsys: Any) -> None:
    """optimum's and transformers.js's layout: one file with both decoders in its branches."""
    import hf_layout
    import transformers

    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(seq2seq_folder)
    folder = tmp_path / "hub" / "merged"
    hf_layout.write_encoder_decoder(model, model.config, folder)
    hf_layout.merge(folder)
    shutil.copy(seq2seq_folder / "config.json", folder)
    run(folder, tmp_path / "a", "--reference", "t5-tiny")
    (row,) = rows(tmp_path / "a", capsys)
    assert (row["failure"], row["agreement"]) == (None, 1.0)
