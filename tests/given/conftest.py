"""Artifacts made by other people's tools, from tiny checkpoints with a tokenizer."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
DECODER, SEQ2SEQ = "llama-tiny", "t5-tiny"


def tool(*command: str, folder: Path) -> None:
    """Run somebody's tool; what it says shows where it fails."""
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env={**os.environ, **OFFLINE}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


def hf_folder(name: str, made: Path) -> Path:
    """Return a catalog checkpoint as a Hugging Face folder, with a tokenizer of bytes."""
    pytest.importorskip("torch", reason="exporting needs slmbench[export]")
    from slmbench.export.ort_genai import _save_checkpoint

    folder = made / f"hf-{name}"
    return folder if folder.exists() else _save_checkpoint(resolve(name), folder)


@pytest.fixture(scope="session")
def decoder_folder(made: Path) -> Path:
    return hf_folder(DECODER, made)


@pytest.fixture(scope="session")
def seq2seq_folder(made: Path) -> Path:
    return hf_folder(SEQ2SEQ, made)


@pytest.fixture(scope="session")
def q4_gguf(made: Path) -> Path:
    """Return a Q4_K_M file by llama.cpp's own quantiser."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
    from slmbench.export.build import ensure_artifact

    whole = ensure_artifact(resolve("dec-tiny"), ArtifactSpec(format="gguf"), progress=lambda _: None).graph("model")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = 15, 1
    target = made / "gguf" / "dec-tiny-Q4_K_M.gguf"
    target.parent.mkdir()
    code = llama_cpp.llama_model_quantize(str(whole).encode(), str(target).encode(), ctypes.byref(params))
    assert code == 0
    return target


@pytest.fixture(scope="session")
def genai_folder(decoder_folder: Path, made: Path) -> Path:
    """Return a folder of onnxruntime-genai's builder, int4, as its documentation says."""
    pytest.importorskip("onnxruntime_genai", reason="needs slmbench[cpu]")
    target = made / "llama-tiny-cpu-int4"
    builder = ("-P", "-m", "onnxruntime_genai.models.builder", "-i", str(decoder_folder), "-o", str(target))
    more = ("-p", "int4", "-e", "cpu", "-c", str(made / "cache"), "--extra_options", "hf_token=false")
    tool(*builder, *more, folder=made)
    return target


def optimum(source: Path, target: Path, *more: str) -> Path:
    pytest.importorskip("optimum.intel", reason="needs slmbench[export]")
    cli = "from optimum.commands.optimum_cli import main; main()"
    tool("-P", "-c", cli, "export", "openvino", "--model", str(source), *more, str(target), folder=source)
    return target


@pytest.fixture(scope="session")
def ir_folder(decoder_folder: Path, made: Path) -> Path:
    """Return an IR folder by optimum-cli, int8."""
    more = ("--task", "text-generation-with-past", "--weight-format", "int8")
    return optimum(decoder_folder, made / "llama-tiny-int8-ov", *more)


@pytest.fixture(scope="session")
def seq2seq_ir_folder(seq2seq_folder: Path, made: Path) -> Path:
    """Return an encoder-decoder's IR folder by optimum-cli."""
    more = ("--task", "text2text-generation-with-past", "--weight-format", "fp32")
    return optimum(seq2seq_folder, made / "t5-tiny-ov", *more)


@pytest.fixture(scope="session")
def llava_ir(made: Path) -> tuple[Path, Path]:
    """Return a tiny LLaVA, and the folder that optimum-cli makes of it."""
    pytest.importorskip("torch", reason="exporting needs slmbench[export]")
    import picture_folders

    checkpoint = picture_folders.make("llava", made / "hf-llava")
    return checkpoint, optimum(checkpoint, made / "llava-ov", "--task", "image-text-to-text", "--weight-format", "fp32")
