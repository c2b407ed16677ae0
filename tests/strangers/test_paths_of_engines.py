"""What an artifact's own files say of other files: libraries to load, files to write, weights elsewhere.

The canary is the very file that the good artifact has, laid outside: an engine that followed the path would show the
right tokens, and the artifact would be opened.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from victims import MakeVictim, Victim

from slmbench.errors import BadInputError
from slmbench.models.checkpoint import resolve
from slmbench.running.worker_process import WorkerError

CONFIG = "genai_config.json"
Edit = Callable[[dict[str, Any], Path], object]


def config_of(one: Victim, edit: Edit) -> dict[str, bytes]:
    config = json.loads(one.bytes_of(CONFIG))
    edit(config["model"]["decoder"], one.place)
    return {CONFIG: json.dumps(config).encode()}


@pytest.mark.parametrize("library", ["ops.so", "{}/ops.so", "../ops.so"])
def test_no_library_of_an_artifact_is_loaded(library: str, victim: MakeVictim) -> None:
    """onnxruntime-genai loads what ``custom_ops_library`` names, wherever it lies: a stranger's code would run."""
    one = victim("onnxruntime_genai")
    real = Path(psutil._psplatform.cext.__file__ or "")

    def name_it(decoder: dict[str, Any], place: Path) -> None:
        shutil.copy(real, place / "ops.so")
        decoder["session_options"]["custom_ops_library"] = library.format(place)

    folder = one.copy(config_of(one, name_it) | {"ops.so": real.read_bytes()})
    line = one.refused(folder)
    assert f"{folder / CONFIG}: " in line
    assert "'model.decoder.session_options.custom_ops_library' is not for an artifact to say" in line
    if hasattr(psutil.Process, "memory_maps"):
        assert one.worker
        assert not [m for m in psutil.Process(one.worker.pid).memory_maps() if m.path.endswith("ops.so")]


def test_no_file_is_written_where_an_artifact_says(victim: MakeVictim) -> None:
    one = victim("onnxruntime_genai")
    canary = one.place / "canary"
    edit: Edit = lambda decoder, _: decoder["session_options"].update(enable_profiling=str(canary))  # noqa: E731
    assert "enable_profiling' is not for an artifact to say" in one.refused(one.copy(config_of(one, edit)))
    assert not list(one.place.glob("canary*"))


def test_a_key_that_is_there_twice_hides_nothing(victim: MakeVictim) -> None:
    """The engine reads both, a reader of JSON the last."""
    one = victim("onnxruntime_genai")
    text = one.bytes_of(CONFIG).decode()
    twice = text.replace('"session_options":', '"session_options": {"custom_ops_library": "x.so"}, "session_options":')
    assert twice != text
    assert "a key is there twice" in one.refused(one.copy({CONFIG: twice.encode()}))


@pytest.mark.parametrize("path", ["../outside/model.onnx", "{}/outside/model.onnx", "other.onnx", "."])
def test_a_config_names_the_graph_that_its_manifest_names(path: str, victim: MakeVictim) -> None:
    one = victim("onnxruntime_genai")
    shutil.copytree(one.good.folder, one.place / "outside", dirs_exist_ok=True)
    folder = one.copy(config_of(one, lambda decoder, place: decoder.update(filename=path.format(place))))
    assert f"{folder / CONFIG}: not a config of onnxruntime-genai: its filename is" in one.refused(folder)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("num_hidden_layers", 10**9, "its num_hidden_layers is 1000000000, not"),
        ("head_size", -1, "its head_size is -1, not"),
        ("sliding_window", {"window_size": 1, "layers": ["x"]}, "sliding_window.layers' is not for an artifact to say"),
        ("pipeline", [{"a": {"filename": "../x"}}], "pipeline' is not for an artifact to say"),
        ("inputs", "x", "model.decoder.inputs is no object"),
        ("session_options", {"provider_options": [{"QNN": {"backend_path": "x.so"}}]}, "provider_options' is not"),
    ],
)
def test_a_config_says_what_the_exporters_write(name: str, value: object, told: str, victim: MakeVictim) -> None:
    one = victim("onnxruntime_genai")
    assert told in one.refused(one.copy(config_of(one, lambda decoder, _: decoder.update({name: value}))))


@pytest.mark.parametrize("data", [b"[" * 200_000, b"[]", b'{"model": 1e999}', b"\xff\xfe{\x00}\x00"])
def test_what_is_no_config_is_one_line(data: bytes, victim: MakeVictim) -> None:
    one = victim("onnxruntime_genai")
    assert "not a config of onnxruntime-genai" in one.refused(one.copy({CONFIG: data}))


@pytest.mark.parametrize("path", ["../{name}", "{place}/{name}"])
@pytest.mark.parametrize(("backend", "name"), [("onnxruntime", "decoder.onnx"), ("onnxruntime_genai", "model.onnx")])
def test_weights_elsewhere_are_not_an_artifacts(backend: str, name: str, path: str, victim: MakeVictim) -> None:
    onnx = pytest.importorskip("onnx")
    one = victim(backend)
    model = onnx.load_model_from_string(one.bytes_of(name))
    (one.place / f"{name}.data").write_bytes(one.bytes_of(f"{name}.data"))
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = path.format(place=one.place, name=entry.value)
    folder = one.copy({name: model.SerializeToString()})
    assert str(folder / name) in one.refused(folder)


@pytest.mark.parametrize("path", ["../shard.safetensors", "{}/shard.safetensors"])
def test_an_index_leads_to_no_weights_elsewhere(path: str, victim: MakeVictim) -> None:
    one = victim("torch")
    (one.place / "shard.safetensors").write_bytes(one.bytes_of("model.safetensors"))
    index = {"weight_map": {"model.embed_tokens.weight": path.format(one.place)}}
    folder = one.copy({"model.safetensors.index.json": json.dumps(index).encode()})
    assert "is not a file of this folder" in one.refused(folder)


def test_an_adapter_leads_to_no_model_elsewhere(victim: MakeVictim, tmp_path: Path) -> None:
    one = victim("torch")
    adapter = json.dumps({"base_model_name_or_path": str(one.good.folder), "peft_type": "LORA"}).encode()
    folder = one.copy({"adapter_config.json": adapter})
    assert f"{folder / 'adapter_config.json'}: an adapter" in one.refused(folder)
    # A checkpoint as well: transformers follows it wherever peft is installed.
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(one.good.folder, checkpoint)
    resolve(str(checkpoint))
    (checkpoint / "adapter_config.json").write_bytes(adapter)
    with pytest.raises(BadInputError, match="an adapter .* not a whole model"):
        resolve(str(checkpoint))


def test_a_config_of_another_model_is_not_built(victim: MakeVictim) -> None:
    """Else a vocabulary of any size would be drawn at random before anybody saw that the weights do not fit."""
    one = victim("torch")
    config = json.loads(one.bytes_of("config.json"))
    folder = one.copy({"config.json": json.dumps({**config, "vocab_size": 4096}).encode()})
    assert f"{folder / 'config.json'}: its vocab_size is 4096, the manifest's" in one.refused(folder)


def test_code_of_an_artifact_is_not_run(victim: MakeVictim) -> None:
    one = victim("torch")
    canary = one.place / "ran"
    code = f"open({str(canary)!r}, 'w')\nfrom transformers import LlamaConfig\nclass C(LlamaConfig): pass\n".encode()
    config = json.loads(one.bytes_of("config.json")) | {"auto_map": {"AutoConfig": "code.C"}}
    opened = one.open(one.copy({"code.py": code, "config.json": json.dumps(config).encode()}))
    # transformers knows this architecture itself, so it may take the folder, without its code.
    assert not isinstance(opened, WorkerError) or "Traceback" not in opened.message
    assert not canary.exists()


@pytest.mark.parametrize("name", ["openvino_tokenizer.xml", "config.json", "generation_config.json"])
def test_openvino_genai_reads_the_graph_alone(name: str, victim: MakeVictim) -> None:
    one = victim("openvino_genai")
    folder = one.copy({name: b"{}"})
    assert f"{folder / name}: openvino-genai would read it" in one.refused(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('offset="', 'offset="9223372036854775'), ('offset="', 'offset="-'), ('size="', 'size="18446744073709551615'),
        ("<layers>", "<layers>" + "<layer>" * 50_000), ('element_type="f32"', 'element_type="string"'),
        ('shape="', 'shape="1099511627776, 1099511627776, '), ('version="', 'version="999'),
        ('<?xml version="1.0"?>', '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'),
    ],
)  # fmt: skip
def test_an_ir_that_lies_about_its_weights_is_refused(old: str, new: str, victim: MakeVictim) -> None:
    """OpenVINO holds offsets and sizes against the .bin; the day it stops to, this says so."""
    one = victim("openvino")
    name = "openvino_decoder_model.xml"
    text = one.bytes_of(name).decode()
    assert old in text
    folder = one.copy({name: text.replace(old, new).encode()})
    result = one.open(folder)
    if "DOCTYPE" in new and not isinstance(result, WorkerError):
        # No entity is ever followed: what remains is the graph as it was.
        assert result.agreement == 1.0
        return
    assert isinstance(result, WorkerError)
    assert str(folder / name) in result.message
