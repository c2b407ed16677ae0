"""Static graphs: both families, every architecture, the reference's tokens; what has no static graph is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rotation import in_turn

from slmbench.errors import BadInputError, CannotRunError
from slmbench.export.build import ensure_artifact
from slmbench.export.static import route as static
from slmbench.models import static_layout as layout
from slmbench.models.artifact import Artifact, ArtifactSpec, GoldenPrompt
from slmbench.models.checkpoint import Checkpoint, resolve

QUICK = ["t5-tiny", "mu-tiny", "llama-tiny", "gemma3-tiny"]
OTHERS = ["flan-t5-tiny", "bart-tiny", "marian-tiny", "t5gemma-tiny", "qwen3-tiny", "phi3-tiny", "mistral-tiny"]
ARCHITECTURES = [
    *QUICK,
    *(pytest.param(name, marks=pytest.mark.slow) for name in in_turn([*OTHERS, "smollm3-tiny"], 2)),
]
INPUT_TOKENS, OUTPUT_TOKENS = 48, 24


def make(name: str, **fields: Any) -> Artifact:
    spec = {"format": "onnx", "layout": "static", "input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
    return ensure_artifact(resolve(name), ArtifactSpec.model_validate(spec | fields), progress=lambda _: None)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_graphs_give_the_reference_tokens(name: str) -> None:
    artifact = make(name)
    run = Graphs(artifact)
    for prompt in artifact.golden().prompts:
        # The second golden prompt is shorter than N: padded and masked.
        assert len(prompt.input_ids) <= INPUT_TOKENS
        assert generate(run, artifact.manifest.checkpoint, prompt) == list(prompt.tokens)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_decoder_step_computes_no_cross_kv(name: str) -> None:
    manifest = make(name).manifest
    encoder_decoder = manifest.checkpoint.family == "encoder-decoder"
    assert manifest.cross_kv_once is (True if encoder_decoder else None)
    assert set(manifest.graphs) == ({"encoder", "decoder"} if encoder_decoder else {"model", "decode"})


def test_a_decoder_step_that_computes_cross_kv_would_be_noticed() -> None:
    checkpoint = resolve("t5-tiny")
    products = checkpoint.geometry.decoder_layers * (6 + checkpoint.geometry.ffn_matrices) + 1
    assert static._cross_kv_once(checkpoint, products)
    assert not static._cross_kv_once(checkpoint, products + 2 * checkpoint.geometry.decoder_layers)


def test_every_port_has_one_fixed_shape() -> None:
    for name in ("t5-tiny", "gemma3-tiny"):
        for session in Graphs(make(name)).sessions.values():
            for port in (*session.get_inputs(), *session.get_outputs()):
                assert all(isinstance(size, int) for size in port.shape), port.name


def test_weights_are_stored_once_though_embedding_and_head_are_tied() -> None:
    artifact = make("llama-tiny")
    (weights,) = (entry for entry in artifact.manifest.files if entry.path == "decode.onnx.data")
    assert weights.size_bytes < 1.1 * 4 * artifact.manifest.checkpoint.parameter_count


def test_bytes_of_a_step_are_those_of_its_matrices() -> None:
    # llama-tiny ties embedding and head, so a step reads every parameter once.
    artifact = make("llama-tiny")
    assert artifact.manifest.decode_weight_bytes == 4 * artifact.manifest.checkpoint.parameter_count
    # An encoder-decoder's step reads neither the encoder nor the projections that make cross K/V.
    checkpoint = resolve("mu-tiny")
    assert make("mu-tiny").manifest.decode_weight_bytes < 4 * checkpoint.parameter_count / 2


def test_only_networks_that_need_one_tensor_merge_kv() -> None:
    """A merge copies all K/V at every step; it is there where nothing else fits, and nowhere else."""
    assert "slot_mask" in Graphs(make("t5-tiny")).inputs("decoder")
    assert "slot_mask" not in Graphs(make("mu-tiny")).inputs("decoder")
    assert "slot_mask" not in Graphs(make("llama-tiny")).inputs("decode")


def test_the_network_is_left_as_it_was() -> None:
    import torch

    from slmbench.export.static.graphs import static_graphs
    from slmbench.export.torch_model import load_model

    for name in ("t5-tiny", "gemma3-tiny", "phi3-tiny"):
        checkpoint = resolve(name)
        network = load_model(checkpoint)
        ids = torch.arange(10, 30)[None]
        given = {"input_ids": ids, "use_cache": False}
        if checkpoint.family == "encoder-decoder":
            given["decoder_input_ids"] = ids[:, :5]
        before = network(**given).logits
        with static_graphs(network, checkpoint, 16, 8, -1e4):
            pass
        assert torch.equal(network(**given).logits, before), name


@pytest.mark.parametrize(
    ("name", "fields", "error", "text"),
    [
        ("llama-tiny", {"input_tokens": None}, BadInputError, "--input-tokens"),
        ("bart-tiny", {"input_tokens": 100_000}, BadInputError, "100000 input tokens asked"),
        ("llama-tiny", {"input_tokens": 4000, "output_tokens": 200}, BadInputError, "4200 tokens in the decoder"),
        ("llama-tiny", {"format": "torch", "exporter": "none"}, CannotRunError, "no static layout"),
        ("llama-tiny", {"weight_precision": "int4"}, CannotRunError, "--target qnn"),
        ("llama-tiny", {"format": "openvino", "weight_precision": "bf16"}, CannotRunError, "bf16"),
        ("llama-tiny", {"target": "qnn", "weight_precision": "fp32"}, CannotRunError, "fp16"),
        ("llama-tiny", {"target": "qnn-sm855", "weight_precision": "fp16"}, BadInputError, "sm8550"),
        ("llama-tiny", {"target": "cuda", "weight_precision": "fp16"}, BadInputError, "unknown target 'cuda'"),
    ],
)
def test_what_has_no_static_graph_is_refused(
    name: str, fields: dict[str, Any], error: type[Exception], text: str, tmp_path: Path
) -> None:
    spec = {"format": "onnx", "layout": "static", "input_tokens": 16, "output_tokens": 8} | fields
    with pytest.raises(error, match=text):
        static.write(resolve(name), ArtifactSpec.model_validate(spec), tmp_path, lambda _: None)
    if error is CannotRunError:
        reason = static.refusal(resolve(name), ArtifactSpec.model_validate(spec))
        assert reason is not None
        assert text in reason


def test_attention_that_is_given_more_than_the_layout_has_is_refused(tmp_path: Path) -> None:
    """GPT-OSS hands its sinks to the attention function: left out, tokens would be wrong."""
    import transformers

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"head_dim": 16, "num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1}
    ends = {"vocab_size": 512, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.GptOssConfig(**sizes, **more, **ends, sliding_window=16, rope_scaling=None)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "folder")
    spec = {"format": "onnx", "layout": "static", "input_tokens": 16, "output_tokens": 8}
    with pytest.raises(CannotRunError, match="s_aux"):
        static.write(resolve(str(tmp_path / "folder")), ArtifactSpec.model_validate(spec), tmp_path, lambda _: None)


class Graphs:
    """The graphs of an artifact in ONNX Runtime, called by role with named arrays."""

    def __init__(self, artifact: Artifact) -> None:
        import onnxruntime as ort

        self.sessions = {
            role: ort.InferenceSession(artifact.graph(role), providers=["CPUExecutionProvider"])
            for role in artifact.manifest.graphs
        }

    def inputs(self, role: Any) -> set[str]:
        return {port.name for port in self.sessions[role].get_inputs()}

    def __call__(self, role: Any, feeds: dict[str, Any]) -> dict[str, Any]:
        session = self.sessions[role]
        names = [port.name for port in session.get_outputs()]
        return dict(zip(names, session.run(names, {p.name: feeds[p.name] for p in session.get_inputs()}), strict=True))


def generate(run: Graphs, checkpoint: Checkpoint, prompt: GoldenPrompt) -> list[int]:
    """Drive the graphs as static_layout describes them, plainly: the loop that the backends are compared with."""
    count, given, tokens = len(prompt.input_ids), len(prompt.tokens), []
    hidden = np.float32(layout.mask_value(None, "fp32"))
    encoder_decoder = checkpoint.family == "encoder-decoder"
    first = 0 if encoder_decoder else INPUT_TOKENS
    length = first + OUTPUT_TOKENS
    ids = np.full((1, INPUT_TOKENS), checkpoint.pad_token_id)
    mask = np.full((1, 1, 1, INPUT_TOKENS), hidden)
    place = slice(0, count) if encoder_decoder else slice(INPUT_TOKENS - count, INPUT_TOKENS)
    ids[0, place], mask[..., place] = prompt.input_ids, 0
    names = layout.kv_names("past", checkpoint.geometry.decoder_layers)
    if encoder_decoder:
        feeds = {**run("encoder", {"input_ids": ids, "cross_mask": mask}), "cross_mask": mask}
        token, seen = checkpoint.decoder_start_token_id, 0
        sizes = (1, checkpoint.geometry.kv_heads, length, checkpoint.geometry.head_dim)
        past = {name: np.zeros(sizes, np.float32) for name in names}
    else:
        position = np.zeros((1, INPUT_TOKENS), np.int64)
        position[0, place] = np.arange(count)
        feeds = {}
        past = run("model", {"input_ids": ids, "position": position, "prompt_mask": mask})
        token, seen = choose(past["logits"], checkpoint.eos_token_ids), count
        tokens.append(token)
    window = next((w for w in checkpoint.geometry.windows if w), length)
    while len(tokens) < given:
        slot = first + (len(tokens) if encoder_decoder else len(tokens) - 1)
        slots = np.zeros((1, 1, length, 1), np.float32)
        slots[0, 0, slot] = 1
        visible = np.full((1, 1, 1, length), hidden)
        visible[..., (0 if encoder_decoder else INPUT_TOKENS - count) : slot + 1] = 0
        narrow = visible.copy()
        narrow[..., : max(slot - window + 1, 0)] = hidden
        if "slot_mask" not in run.inputs("decoder" if encoder_decoder else "decode"):
            visible[..., slot] = narrow[..., slot] = hidden
        step = {"input_ids": np.array([[token]]), "position": np.array([seen]), "slot_mask": slots}
        masks = {"self_mask": visible, "window_mask": narrow}
        new = run("decoder" if encoder_decoder else "decode", {**feeds, **step, **masks, **past})
        for name in names:
            past[name][:, :, slot] = new[name.replace("past", "new")][:, :, 0]
        token, seen = choose(new["logits"], checkpoint.eos_token_ids), seen + 1
        tokens.append(token)
    return tokens


def choose(logits: Any, suppressed: Sequence[int]) -> int:
    row = logits.reshape(-1).copy()
    row[list(suppressed)] = -np.inf
    return int(row.argmax())
