"""Our loop on llama.cpp: the reference's tokens, what is read back, resets, bounds, files that deceive."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest
from rotation import in_turn

from slmbench import testing
from slmbench.backend import Session, load_backend
from slmbench.errors import BadInputError, CannotRunError
from slmbench.measure.proof import agreement
from slmbench.models import catalog_configs as shapes
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import checkpoint_of_folder, resolve
from slmbench.terms import MARGIN_TOLERANCE, Precision

pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
pytest.importorskip("gguf", reason="needs slmbench[llama]")
pytest.importorskip("torch", reason="exporting needs slmbench[export]")

from slmbench.export.build import ensure_artifact

COMPUTE = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}


def artifact_of(name: str, precision: str = "fp32") -> Artifact:
    spec = ArtifactSpec.model_validate({"format": "gguf", "weight_precision": precision})
    return ensure_artifact(resolve(name), spec, progress=lambda _: None)


def open_session(artifact: Artifact, batch: int = 1, inputs: int = 48, outputs: int = 24, **more: Any) -> Any:
    backend = load_backend("llama_cpp")
    compute = COMPUTE.get(artifact.manifest.spec.weight_precision, "int8")
    options = backend.options_type.model_validate({"threads": 1, "compute_precision": compute, **more})
    session = backend.open(artifact, "cpu", options)
    assert isinstance(session, Session)
    session.reserve(batch, inputs, outputs)
    return session


def generate(session: Session, prompt: Any, mask: Any = None, count: int = 12) -> Any:
    tokens = [session.start(prompt, mask).copy()]
    for _ in range(count - 1):
        tokens.append(session.step(tokens[-1]).copy())
    return np.stack(tokens, axis=1)


@pytest.mark.parametrize("name", ["llama-tiny", "dec-tiny", "qwen3-tiny"])
def test_every_golden_token_comes_out(name: str) -> None:
    artifact = artifact_of(name)
    session = open_session(artifact)
    found = agreement(session, artifact.golden().prompts, MARGIN_TOLERANCE["fp32"], "decoder-only")
    assert found.compared > 40
    assert found.equal == found.compared
    assert session.attention_path() == "unfused"


def test_fp32_is_exact_and_flash_attention_would_not_be() -> None:
    """llama.cpp's graph converts K and V to F16 for it: a Mistral then got 1 of 48 tokens wrong."""
    import torch

    from slmbench.export.torch_model import load_model

    prompt = np.random.default_rng(4).integers(4, 1000, (1, 40))
    with torch.inference_mode():
        network: Any = load_model(resolve("llama-tiny"))
        expected = network(torch.from_numpy(prompt)).logits[0, -1].double().numpy()

    def off(**options: Any) -> float:
        session = open_session(artifact_of("llama-tiny"), **options)
        seen = []
        session._choice = lambda logits: seen.append(logits[0].copy()) or np.zeros(1, np.int64)  # type: ignore[func-returns-value]
        session.start(prompt)
        finite = np.isfinite(seen[0])
        return float(np.abs(seen[0] - expected)[finite].max() / expected.std())

    assert off() < 2e-5
    assert 1e-4 < off(kv_cache="f16", attention="flash") < 3e-2
    backend = load_backend("llama_cpp")
    options = backend.options_type.model_validate({"attention": "flash"})
    told = backend.refusal(resolve("llama-tiny"), ArtifactSpec(format="gguf"), options, "cpu")
    assert told is not None
    assert "rounds K and V from fp32 to fp16" in told


SMALL: dict[str, Any] = {
    "width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "ffn": 128, "vocab": 512, "positions": 256, "tied": False,
}  # fmt: skip
SCALED = {"rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 64}
LLAMA3 = {**SCALED, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
VARIANTS = {
    "llama, rope scaled as Llama 3": shapes.decoder("llama", **SMALL, rope_parameters=LLAMA3),
    "llama, linear rope": shapes.decoder("llama", **SMALL, rope_parameters={**SCALED, "rope_type": "linear"}),
    "mistral, own head size": shapes.decoder("mistral", **SMALL, head_dim=32, sliding_window=None),
}
WINDOWED: dict[str, Any] = {
    "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16, "hidden_activation": "gelu_pytorch_tanh",
    "layer_types": ["sliding_attention", "full_attention"], "tied": True,
}  # fmt: skip
BY_LAYER = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 256,
    "long_factor": [2.0 + one for one in range(8)], "short_factor": [1.0 + one / 10 for one in range(8)],
}  # fmt: skip
SCALES = {"attention_multiplier": 0.2, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0}
VARIANTS |= {
    "llama with biases": shapes.decoder("llama", **SMALL, attention_bias=True, mlp_bias=True),
    "qwen2": shapes.decoder("qwen2", **SMALL),
    "qwen2, linear rope": shapes.decoder("qwen2", **SMALL, rope_parameters={**SCALED, "rope_type": "linear"}),
    "gemma": shapes.decoder("gemma", **{**SMALL, "tied": True}, head_dim=32, hidden_act="gelu_pytorch_tanh"),
    "gemma2": shapes.decoder("gemma2", **{**SMALL, **WINDOWED}),
    "gemma3, linear rope": shapes.decoder("gemma3_text", **{**SMALL, **WINDOWED}, rope_parameters=BY_LAYER),
    "phi3": shapes.decoder("phi3", **SMALL),
    "phi3, a part of each head": shapes.decoder(
        "phi3", **SMALL, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    ),
    "phi3, longrope": shapes.decoder(
        "phi3", **{**SMALL, "positions": 1024}, rope_parameters=LONG, original_max_position_embeddings=256
    ),
    "smollm3": shapes.decoder("smollm3", **{**SMALL, "layers": 4}),
    "granite": shapes.decoder("granite", **SMALL, **SCALES),
    "olmo2": shapes.decoder("olmo2", **SMALL),
    "olmo2, one embedding": shapes.decoder("olmo2", **{**SMALL, "tied": True}),
}
REFUSED = {
    "not yarn": {"rope_parameters": {**SCALED, "rope_type": "yarn"}},
}


def variant(config: dict[str, Any], folder: Path) -> Artifact:
    """Export a checkpoint whose attention is sharp, so that its tokens depend on every part of it."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
            else:
                parameter.normal_(0.0, (3.0 if name.endswith("q_proj.weight") else 1.0) * parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    return ensure_artifact(checkpoint_of_folder(folder), ArtifactSpec(format="gguf"), progress=lambda _: None)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_carried(name: str, tmp_path: Path) -> None:
    artifact = variant(VARIANTS[name], tmp_path / "variant")
    # ggml takes the Gemmas' GELU from a table of 16-bit numbers.
    tolerance = MARGIN_TOLERANCE["fp16" if name.startswith("gemma") else "fp32"]
    found = agreement(open_session(artifact), artifact.golden().prompts, tolerance, "decoder-only")
    assert found.compared > 40
    assert found.equal == found.compared


@pytest.mark.parametrize("message", REFUSED)
def test_a_variant_that_the_format_cannot_say_is_refused(message: str, tmp_path: Path) -> None:
    with pytest.raises(CannotRunError, match=message):
        variant(shapes.decoder("llama", **{**SMALL, **REFUSED[message]}), tmp_path / "variant")


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
@pytest.mark.parametrize("name", ["llama-tiny", "dec-tiny"])
def test_tokens_survive_other_precisions(name: str, precision: str) -> None:
    artifact = artifact_of(name, precision)
    found = agreement(open_session(artifact), artifact.golden().prompts, MARGIN_TOLERANCE[precision], "decoder-only")
    assert found.equal >= 0.95 * found.compared > 0


@pytest.mark.parametrize(("precision", "kv"), [("fp32", "f32"), ("fp16", "f16"), ("bf16", "bf16"), ("int8", "f16")])
def test_precision_threads_and_settings_are_read_back(precision: str, kv: str) -> None:
    session = open_session(artifact_of("llama-tiny", precision))
    session.start(np.full((1, 4), 5))
    flash = "disabled" if precision == "fp32" else "enabled"
    assert session.compute_precision() == COMPUTE.get(precision, "int8")
    assert session.threads() == 1
    assert session.placement().executed_on == "cpu"
    # Whether there is something to repack depends on the CPU.
    asked, effect = session.settings()["repacked weights"]
    assert asked == effect
    assert session.settings() | {"repacked weights": ("", "")} == {
        "repacked weights": ("", ""), "threads": ("1", "1"),
        "threads of prompts": ("1", "1"), "kv_cache": (kv, kv), "flash attention": (flash, flash),
        "mmap": ("default", "on"), "n_batch": ("default", "72"), "n_ubatch": ("default", "72"),
    }  # fmt: skip


def test_the_precision_is_that_of_the_file_not_of_the_request() -> None:
    good = artifact_of("llama-tiny", "bf16")
    lying = good.manifest.spec.model_copy(update={"weight_precision": "fp32"})
    session = open_session(Artifact(good.folder, good.manifest.model_copy(update={"spec": lying})))
    assert session.compute_precision() == "bf16"


def test_options_are_in_effect() -> None:
    session = open_session(artifact_of("llama-tiny"), kv_cache="f16", attention="unfused", threads=2)
    assert session.settings() == {
        "repacked weights": ("none", "none"), "threads": ("2", "2"),
        "threads of prompts": ("2", "2"), "kv_cache": ("f16", "f16"), "flash attention": ("disabled", "disabled"),
        "mmap": ("default", "on"), "n_batch": ("default", "72"), "n_ubatch": ("default", "72"),
    }  # fmt: skip
    assert session.threads() == 2


def test_buffers_elsewhere_are_called_by_their_name() -> None:
    session = open_session(artifact_of("llama-tiny"))
    session._model.buffers = {"CPU_Mapped", "CUDA0"}
    assert session.placement().executed_on == "CUDA0"


def test_a_padded_batch_gives_what_each_prompt_gives_alone() -> None:
    rng, lengths = np.random.default_rng(0), (9, 31, 20)
    prompts = [rng.integers(4, 1000, length) for length in lengths]
    ids, mask = np.full((3, 31), 0), np.zeros((3, 31), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, 31 - len(prompt) :], mask[row, 31 - len(prompt) :] = prompt, 1
    together = generate(open_session(artifact_of("llama-tiny"), 3, 31, 12), ids, mask)
    alone = open_session(artifact_of("llama-tiny"), 1, 31, 12)
    for row, prompt in enumerate(prompts):
        assert together[row].tolist() == generate(alone, prompt[None])[0].tolist()


def test_start_forgets_the_generation_before() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.integers(4, 1000, (1, 30)), rng.integers(4, 1000, (1, 11))
    session = open_session(artifact_of("llama-tiny"))
    fresh = generate(session, first)
    other = generate(session, second, count=5)
    assert not np.array_equal(fresh[:, :5], other)
    assert np.array_equal(generate(session, first), fresh)


def test_a_prompt_beyond_one_physical_batch() -> None:
    """llama.cpp cuts a prompt into pieces of 512 tokens; the last place's logits are those that count."""
    prompt = np.random.default_rng(2).integers(4, 1000, (1, 1100))
    session = open_session(artifact_of("llama-tiny"), 1, 1100, 4)
    pieces = open_session(artifact_of("llama-tiny"), 1, 1100, 4)
    whole = session.start(prompt)
    pieces.start(prompt[:, :600])
    assert np.array_equal(pieces.extend(prompt[:, 600:]), whole)


def test_ends_of_sequence_are_not_chosen() -> None:
    session = open_session(artifact_of("llama-tiny"))
    prompt = np.random.default_rng(3).integers(4, 1000, (1, 30))
    tokens = generate(session, prompt)
    session._suppressed = np.unique(tokens)
    assert not set(generate(session, prompt)[0]) & set(tokens[0])


def test_what_is_beyond_the_reserved_is_refused() -> None:
    session = open_session(artifact_of("llama-tiny"), 1, 8, 3)
    for shape in ((1, 9), (2, 8)):
        with pytest.raises(BadInputError, match=rf"{shape[0]}x{shape[1]} tokens\) exceeds what is reserved \(1x8"):
            session.start(np.full(shape, 5))
    tokens = session.start(np.full((1, 8), 5))
    for _ in range(2):
        tokens = session.step(tokens)
    with pytest.raises(BadInputError, match="beyond the 3 new tokens"):
        session.step(tokens)
    session.reserve(1, 4000, 96)
    with pytest.raises(BadInputError, match="4096 tokens; .* 4097"):
        session.reserve(1, 4000, 97)


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    session = open_session(artifact_of("llama-tiny"))
    with pytest.raises(CannotRunError, match="llama_decode gave -1"):
        session.start(np.array([[5, 1024]]))


@pytest.mark.parametrize(
    ("name", "change", "device", "message"),
    [
        ("bart-tiny", {}, "cpu", "no GGUF of the architecture 'bart'"),
        ("mistral-tiny", {}, "cpu", "ignores the attention window"),
        ("llama-tiny", {}, "gpu", "on the CPU only, not on gpu"),
        ("llama-tiny", {"compute_precision": "bf16"}, "cpu", "fp32 weights in fp32, not in bf16"),
        ("llama-tiny", {"attention": "SDPA"}, "cpu", "it has|has flash, unfused"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(name: str, change: dict[str, Any], device: Any, message: str) -> None:
    backend = load_backend("llama_cpp")
    spec = ArtifactSpec(format="gguf")
    told = backend.refusal(resolve(name), spec, backend.options_type.model_validate(change), device)
    assert told is not None
    assert any(part in told for part in message.split("|"))


def test_specs_are_for_what_can_run() -> None:
    backend, llama = load_backend("llama_cpp"), resolve("llama-tiny")
    assert [spec.format for spec in backend.artifact_specs(llama, "int8", "cpu")] == ["gguf"]
    assert [spec.weight_precision for spec in backend.artifact_specs(llama, "q4_k_m", "cpu")] == ["q4_k_m"]
    assert not backend.artifact_specs(llama, "q2_k", "cpu")
    assert not backend.artifact_specs(llama, "fp32", "gpu")


def spoilt(place: Path, good: Artifact, data: bytes) -> Artifact:
    shutil.copytree(good.folder, place, dirs_exist_ok=True)
    (place / "model.gguf").write_bytes(data)
    return replace(good, folder=place)


def a_value(key: bytes, text: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(text)) + text


def test_a_file_that_says_something_else_is_refused_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slmbench.backends.llama_cpp import session as _llama_cpp_session

    monkeypatch.setattr(_llama_cpp_session, "GgufModel", None)
    good = artifact_of("llama-tiny")
    data = good.graph("model").read_bytes()
    values = struct.unpack_from("<Q", data, 16)[0]
    more = struct.pack("<Q", values + 1)
    layers = data.index(b"llama.block_count") + len(b"llama.block_count") + 4
    cases = {
        "it does not begin with GGUF": b"GGML" + data[4:],
        "it ends within its header": data[:200],
        "it is of version 9": data[:4] + b"\x09" + data[5:],
        "its tensors end at byte": data[: len(data) // 2],
        "values": data[:16] + b"\xff" * 8 + data[24:],
        "'split.count' is not for an artifact to say": data[:16] + more + a_value(b"split.count", b"2") + data[24:],
        "'general.architecture' is there twice": (
            data[:16] + more + a_value(b"general.architecture", b"llama") + data[24:]
        ),
        "its llama.block_count is 900, expected is 2": data[:layers] + struct.pack("<I", 900) + data[layers + 4 :],
    }
    for number, (message, broken) in enumerate(cases.items()):
        with pytest.raises(CannotRunError, match="not a GGUF file of slmbench's: ") as refused:
            open_session(spoilt(tmp_path / str(number), good, broken))
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)


def test_what_llama_cpp_refuses_it_tells_in_one_line(tmp_path: Path) -> None:
    good = artifact_of("llama-tiny")
    data = good.graph("model").read_bytes()
    broken = data.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_uq.weight")
    with pytest.raises(CannotRunError, match="llama.cpp does not load it: .*blk.1.ffn_up.weight") as refused:
        open_session(spoilt(tmp_path / "broken", good, broken))
    assert "\n" not in str(refused.value)


def test_nothing_is_said_on_standard_output_or_error(capfd: pytest.CaptureFixture[str]) -> None:
    generate(open_session(artifact_of("llama-tiny")), np.full((1, 8), 5), count=3)
    assert capfd.readouterr() == ("", "")


def test_a_session_that_nobody_closed_keeps_no_file_mapped() -> None:
    psutil = pytest.importorskip("psutil")
    if not hasattr(psutil.Process, "memory_maps"):
        pytest.skip("this system does not tell of mapped files")
    artifact = artifact_of("dec-tiny", "fp16")

    def mapped() -> bool:
        return any(one.path == str(artifact.graph("model")) for one in psutil.Process().memory_maps())

    session = open_session(artifact)
    assert mapped()
    session = None
    gc.collect()
    assert session is None
    assert not mapped()
    session = open_session(artifact)
    session.close()
    session.close()
    assert not mapped()


@pytest.mark.slow
@pytest.mark.parametrize("precision", in_turn(["fp16", "bf16"], 2))
@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
def test_contract_in_half_precision(check: Any, precision: Any) -> None:
    backend = load_backend("llama_cpp")
    options = backend.options_type(compute_precision=precision)
    check(testing.subject(backend, "llama-tiny", precision=precision, options=options))


def test_a_t5_gives_the_references_tokens() -> None:
    artifact = artifact_of("t5-tiny")
    found = agreement(open_session(artifact), artifact.golden().prompts, MARGIN_TOLERANCE["fp32"], "encoder-decoder")
    assert found.compared > 40
    assert found.equal == found.compared
    # llama.cpp's graph computes them at every step.
    assert artifact.manifest.cross_kv_once is False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"),
    [("mt5", "fp32"), ("umt5", "fp32"), *(("flan-t5-tiny", one) for one in ("fp32", *in_turn(("fp16", "int8"), 2)))],
)
def test_every_kind_of_t5_gives_the_references_tokens(name: str, precision: Precision, tmp_path: Path) -> None:
    if name in architectures.names():
        # As many layers on both sides, as llama.cpp wants them. (Their attention is too sharp for 8 bits.)
        name = str(architectures.make(name, tmp_path / name, num_decoder_layers=2))
    spec = ArtifactSpec(format="gguf", weight_precision=precision)
    artifact = ensure_artifact(resolve(name), spec, progress=lambda _: None)
    # All three are gated: ggml takes their GELU from a table of 16-bit numbers, whatever the weights are.
    tolerance = MARGIN_TOLERANCE["fp16" if precision == "fp32" else precision]
    found = agreement(open_session(artifact), artifact.golden().prompts, tolerance, "encoder-decoder")
    assert found.compared > 15
    assert found.equal >= (1.0 if precision == "fp32" else 0.95) * found.compared


def test_a_t5s_prompts_in_a_batch_and_its_steps_without_a_cache() -> None:
    rng, lengths = np.random.default_rng(0), (9, 31, 20)
    prompts = [rng.integers(4, 1000, length) for length in lengths]
    ids, mask = np.zeros((3, 31), np.int64), np.zeros((3, 31), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, 1
    session = open_session(artifact_of("t5-tiny"), 3, 31, 12)
    together = generate(session, ids, mask)
    assert set(session.phases_ns()) == {"encode", "first_step"}
    alone = open_session(artifact_of("t5-tiny"), 1, 31, 12)
    for row, prompt in enumerate(prompts):
        assert together[row].tolist() == generate(alone, prompt[None])[0].tolist()
    answer = [int(alone.start(prompts[2][None])[0])]
    for _ in range(11):
        answer.append(int(alone.reread(np.array([answer]))[0]))
    assert answer == together[2].tolist()


def test_a_t5s_prompt_beyond_one_physical_batch() -> None:
    """llama.cpp would end the process where an encoder's input exceeded its batch."""
    prompt = np.random.default_rng(2).integers(4, 1000, (1, 1100))
    assert generate(open_session(artifact_of("t5-tiny"), 1, 1100, 4), prompt, count=4).shape == (1, 4)


def save_tokenizer(folder: Path) -> Any:
    """Write a byte-level BPE of single bytes and a few merges; return it as transformers reads it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll")]
    vocabulary = {text: index for index, text in enumerate([*alphabet, *("".join(one) for one in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    found.save_pretrained(folder)
    return found


def test_a_tokenizer_goes_along_and_reads_as_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slmbench.export.gguf import tokenizer as written

    folder = tmp_path / "model"
    folder.mkdir()
    theirs = save_tokenizer(folder)
    probe = str(theirs.encode(written._PROBE)).encode()
    monkeypatch.setitem(written._RULES, hashlib.sha256(probe).hexdigest(), "gpt-2")
    session = open_session(variant(shapes.decoder("llama", **SMALL), folder))
    engine, text = session._model.engine, b"hello, world 123 <|end|>"
    ids = (ctypes.c_int32 * 64)()
    count = engine.llama_tokenize(
        engine.llama_model_get_vocab(session._model.handle), text, len(text), ids, 64, False, True
    )
    assert list(ids[:count]) == theirs.encode(text.decode(), add_special_tokens=False)
    assert session._opened()._vocabulary == SMALL["vocab"]


def test_a_tokenizer_that_llama_cpp_has_no_rule_for_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_tokenizer(folder)
    artifact = variant(shapes.decoder("llama", **{**SMALL, "vocab": 448}), folder)
    assert b"tokenizer.ggml.tokens" not in artifact.graph("model").read_bytes()[: 1 << 16]
    open_session(artifact)
