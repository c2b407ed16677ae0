"""slmbench inspect: what a file is, by its header; which of several is meant; what leads out of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import given_files as good
import pytest

from slmbench.cli import run_main
from slmbench.given import ctranslate2
from slmbench.given.gguf_reader import read_header
from slmbench.models.checkpoint import resolve
from slmbench.models.given_record import SCALED_LOGITS


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    return folder


def inspected(capsys: pytest.CaptureFixture[str], what: str | Path) -> dict[str, Any]:
    assert run_main(["inspect", str(what), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], what: str | Path) -> str:
    assert run_main(["inspect", str(what)]) == 2
    return capsys.readouterr().err


def can(found: dict[str, Any]) -> set[str]:
    return {row["backend"] for row in found["backends"] if row["refusal"] is None}


def test_a_gguf_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
    write(tmp_path, {"x-Q8_0.gguf": good.gguf_bytes()})
    before = sorted(tmp_path.rglob("*"))
    found = inspected(capsys, tmp_path / "x-Q8_0.gguf")
    assert found["format"] == "GGUF"
    assert (found["family"], found["architecture"]) == ("decoder-only", "llama")
    assert {one["type"]: one["weights"] for one in found["weight_types"]} == {"F32": 96 * 64 + 64, "Q8_0": 64 * 128}
    assert found["bits_per_weight"] == round(8 * (4 * 6208 + 64 * 128 * 34 / 32) / (6208 + 8192), 2)
    assert found["context_length"] == 256
    assert found["tokenizer"] == "gpt2, 96 tokens"
    assert found["producer"]["general.quantized_by"] == "somebody"
    assert can(found) == {"llama_cpp"}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_t5_gguf_without_its_decoder_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {key.replace("llama.", "t5."): value for key, value in good.VALUES.items()}
    values["general.architecture"] = "t5"
    tensors = {f"enc.{name}" if name.startswith("blk.") else name: one for name, one in good.TENSORS.items()}
    write(tmp_path, {"t5.gguf": good.gguf_bytes(values, tensors)})
    assert "has an encoder and no decoder" in refused(capsys, tmp_path / "t5.gguf")
    tensors["dec.blk.0.cross_attn_k.weight"] = next(iter(good.TENSORS.values()))
    write(tmp_path, {"t5.gguf": good.gguf_bytes(values, tensors)})
    found = inspected(capsys, tmp_path / "t5.gguf")
    assert found["family"] == "encoder-decoder"
    assert found["flags"] == ["cross K/V computed at every step"]


def test_an_ir_a_genai_folder_and_hugging_faces_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ir = inspected(capsys, write(tmp_path / "ir", good.ir_files()))
    assert (ir["format"], ir["precision"], ir["flags"]) == ("OpenVINO IR", "fp32", ["logits of all positions"])
    assert can(ir) == {"openvino", "openvino_genai"}
    genai = inspected(capsys, write(tmp_path / "genai", good.genai_files()))
    assert (genai["format"], genai["context_length"]) == ("onnxruntime-genai folder", 256)
    assert can(genai) == {"onnxruntime", "onnxruntime_genai"}
    hf = inspected(capsys, write(tmp_path / "hf", good.hf_files()))
    assert (hf["format"], hf["name"]) == ("Hugging Face ONNX", "hf:q4f16")
    assert can(hf) == {"onnxruntime"}


def test_a_folder_of_ctranslate2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ctranslate2", reason="needs slmbench[ct2]")
    found = inspected(capsys, write(tmp_path / "ct2", good.ct2_files()))
    assert (found["format"], found["family"], found["precision"]) == ("CTranslate2 folder", "decoder-only", "fp32")
    assert {one["type"]: one["weights"] for one in found["weight_types"]} == {
        "float32": 96 * 64 + 192 * 64,
        "int8": 8192,
    }
    # A step reads the shared table once, whole, and the scales too.
    (given,) = [resolve(str(tmp_path / "ct2")).given]
    assert given is not None
    assert given.decode_weight_bytes == 4 * (96 * 64 + 192 * 64) + 8192 + 4 * 128 + 2
    assert can(found) == {"ctranslate2"}
    assert inspected(capsys, tmp_path / "ct2" / "model.bin")["digest"] == found["digest"]


def test_logits_that_are_scaled_for_nothing_are_flagged(tmp_path: Path) -> None:
    """CTranslate2's converter under transformers 5: T5s whose head is no embedding are scaled as well."""
    own_head = good.CT2_VARIABLES | {"decoder/projection/weight": ((96, 64), 0)}
    models = {
        "tied": good.ct2_bytes(scale=0.125),
        "own": good.ct2_bytes(own_head, aliases=(), scale=0.125),
        "plain": good.ct2_bytes(own_head, aliases=()),
    }
    folders = {name: write(tmp_path / name, good.ct2_files(one)) for name, one in models.items()}
    flags = {name: ctranslate2.describe(folder).flags for name, folder in folders.items()}
    assert flags == {"tied": [], "own": [SCALED_LOGITS], "plain": []}


def test_texts_that_occur_twice_are_tokens_that_cannot_be_fed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"t{index}" for index in range(90)] + [f"t{index}" for index in range(40, 46)]
    folder = write(tmp_path / "ct2", good.ct2_files(texts=texts))
    assert resolve(str(folder)).unfed_token_ids == (90, 91, 92, 93, 94, 95)
    assert "96 tokens (6 cannot be fed: another token has the same text)" in inspected(capsys, folder)["tokenizer"]
    write(folder, good.ct2_files(texts=["t"] * 96))
    assert "1 different texts for 96 token ids" in refused(capsys, folder)


def test_one_file_of_a_model_says_to_give_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "ct2", good.ct2_files())
    for name in ("config.json", "vocabulary.json"):
        assert f"{folder / name}: one file of a model; give the folder: {folder}" in refused(capsys, folder / name)
    write(tmp_path / "plain", {"notes.txt": b"nothing"})
    assert "no artifact slmbench knows" in refused(capsys, tmp_path / "plain" / "notes.txt")


def test_one_of_several_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {"a-Q4_0.gguf": good.gguf_bytes(), "a-Q8_0.gguf": good.gguf_bytes(), "mmproj-a.gguf": b"GGUF"})
    said = refused(capsys, tmp_path)
    assert "holds 2 artifacts: Q4_0 (a-Q4_0.gguf), Q8_0 (a-Q8_0.gguf)" in said
    assert f"{tmp_path}:Q4_0" in said
    assert inspected(capsys, f"{tmp_path}:q8_0")["files"][0]["path"] == "a-Q8_0.gguf"
    hf = write(tmp_path / "hf", good.hf_files(**{"onnx/model_fp16.onnx": good.onnx_bytes()}))
    assert inspected(capsys, f"{hf}:fp16")["files"][1]["path"] == "onnx/model_fp16.onnx"
    assert inspected(capsys, hf / "onnx" / "model_q4f16.onnx")["name"] == "hf:q4f16"


def test_a_projector_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, write(tmp_path, {"mmproj-a.gguf": good.gguf_bytes({"general.architecture": "clip"}, {})}))
    assert "holds a projector for pictures (mmproj-a.gguf) and no model" in said
    assert "name the model's file" in refused(capsys, tmp_path / "mmproj-a.gguf")


def test_a_split_file(tmp_path: Path) -> None:
    values = {**good.VALUES, "split.count": 2, "split.tensors.count": 3}
    tensors = list(good.TENSORS.items())
    for part, some in enumerate((dict(tensors[:2]), dict(tensors[2:]))):
        own = {**(values if part == 0 else {"split.count": 2}), "split.no": part}
        (tmp_path / f"x-0000{part + 1}-of-00002.gguf").write_bytes(good.gguf_bytes(own, some))
    checkpoint = resolve(str(tmp_path / "x-00002-of-00002.gguf"))
    assert checkpoint.name == "x"
    assert checkpoint.given is not None
    assert [one.path for one in checkpoint.given.files] == ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"]
    assert checkpoint.given.weights == 6208 + 8192


@pytest.mark.parametrize("name", ["openvino_model.bin", "openvino_model.xml"])
def test_a_link_out_of_the_folder_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "ir", good.ir_files())
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    assert "leads out" in refused(capsys, folder)


def test_external_data_behind_a_link_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "hf", good.hf_files(onnx=good.onnx_bytes(location="w.bin")))
    (tmp_path / "secret").write_bytes(bytes(good.VOCABULARY * good.WIDTH * 4))
    (folder / "onnx" / "w.bin").symlink_to(tmp_path / "secret")
    assert "leads out" in refused(capsys, folder)


def test_a_folder_of_no_known_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {"readme.txt": b"nothing"})
    assert refused(capsys, tmp_path).count("\n") == 1
    assert "no artifact slmbench knows" in refused(capsys, tmp_path / "readme.txt")


def test_a_genai_folder_of_several_graphs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = {"type": "phi3v", "vision": {}, "embedding": {}, "decoder": {"filename": "m.onnx"}}
    folder = write(tmp_path / "genai", {"genai_config.json": json.dumps({"model": model}).encode()})
    told = refused(capsys, folder)
    assert "a model of several graphs (embedding, vision)" in told
    assert "--backend onnxruntime --images 1" in told
    assert told.strip().count("\n") == 0
    assert run_main(["run", "--model", str(folder), "--images", "1"]) == 2
    assert capsys.readouterr().err == told


def test_a_genai_decoder_of_embeddings_is_one_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the builder of onnxruntime-genai 0.18.0 makes of a model with pictures, with exclude_embeds."""
    folder = write(tmp_path / "genai", good.genai_files(onnx=good.onnx_bytes(extra_input="inputs_embeds")))
    told = refused(capsys, folder)
    assert "model.onnx: takes embeddings (inputs_embeds), not tokens: one part of a model" in told
    assert told.count("\n") == 1


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(good.gguf_bytes())
    first = resolve(str(path)).digest
    read = []
    monkeypatch.setattr("slmbench.system.digests.sha256_of", lambda one: read.append(one) or "0" * 64)
    assert resolve(str(path)).digest == first
    assert not read
    path.write_bytes(good.gguf_bytes({**good.VALUES, "general.name": "another"}))
    resolve(str(path))
    assert read == [path]


def test_the_table_of_ggmls_types_is_ggufs() -> None:
    constants = pytest.importorskip("gguf.constants", reason="needs slmbench[llama]")
    from slmbench.models.ggml_types import FILE_TYPES, GGML_TYPES

    sizes = {int(kind): (kind.name, *size) for kind, size in constants.GGML_QUANT_SIZES.items()}
    assert {number: sizes.get(number) for number in GGML_TYPES} == dict(GGML_TYPES)
    for kind in constants.LlamaFileType:
        if int(kind) in FILE_TYPES and int(kind) > 1:
            assert kind.name.removeprefix("MOSTLY_").lower().removesuffix("_moe") == FILE_TYPES[int(kind)].replace(
                "bf16", "bf16"
            )


def test_a_header_of_many_tokens_is_read_soon(tmp_path: Path) -> None:
    words = [f"token {index}" for index in range(100_000)]
    (tmp_path / "x.gguf").write_bytes(good.gguf_bytes({**good.VALUES, "tokenizer.ggml.tokens": words}))
    assert read_header(tmp_path / "x.gguf").lengths["tokenizer.ggml.tokens"] == 100_000


def test_a_large_file_is_copied_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither into memory nor onto the disk; its digest is read once."""
    import tracemalloc

    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    rows = 400_000
    tensors = {**good.TENSORS, "blk.1.ffn_up.weight": ((good.FFN, rows), 0)}
    file = tmp_path / "large.gguf"
    with file.open("wb") as stream:
        stream.write(good.gguf_bytes(tensors=tensors))
        # What is not written takes no place on the disk, and is read as zeros.
        stream.truncate(stream.tell() + good.FFN * rows * 4)
    assert file.stat().st_size > 200_000_000
    tracemalloc.start()
    found = resolve(str(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000
    assert sum(one.stat().st_size for one in (tmp_path / "cache").rglob("*") if one.is_file()) < 100_000
    monkeypatch.setattr("slmbench.system.digests.sha256_of", lambda _: pytest.fail("read again"))
    assert resolve(str(file)).digest == found.digest


def test_what_was_compiled_for_an_npu_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blob = tmp_path / "model.blob"
    # As OpenVINO 2026.4.1 begins one.
    blob.write_bytes(b"\x137npuwLLMCMO\xea\x07\x00\x00\x04\x00\x00\x00\x01\x00\x00\x00\x04" + bytes(99))
    assert "NPU wrapper (NPUW) compiled with OpenVINO 2026.4.1, for one driver" in refused(capsys, blob)
    blob.write_bytes(b"\x137npuw")
    assert "(NPUW) compiled, for one driver" in refused(capsys, blob)
    folder = write(tmp_path / "qnn", good.hf_files(good.onnx_bytes(kind="EPContext", length=64)))
    said = refused(capsys, folder)
    assert "a context binary" in said
    assert "for shapes input_ids 1x64; slmbench measures" in said
