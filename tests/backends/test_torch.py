"""Our loop on torch: the reference's tokens, eager and compiled, windows and padding, cross K/V once."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest

from slmbench.backend import Session, load_backend
from slmbench.errors import BadInputError, CannotRunError
from slmbench.export.build import ensure_artifact
from slmbench.measure.proof import agreement
from slmbench.models import catalog
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.system.collector import collector_paused
from slmbench.terms import MARGIN_TOLERANCE

torch = pytest.importorskip("torch", reason="needs slmbench[export]")

TINY = [entry.name for entry in catalog.entries() if entry.name.endswith("-tiny") and entry.whole is None]


def artifact_of(name: str, precision: str = "fp32") -> Artifact:
    spec = ArtifactSpec.model_validate({"format": "torch", "weight_precision": precision, "exporter": "none"})
    return ensure_artifact(resolve(name), spec, progress=lambda _: None)


def open_session(artifact: Artifact, batch: int = 1, inputs: int = 48, outputs: int = 24, **options: Any) -> Session:
    backend = load_backend("torch")
    session = backend.open(artifact, "cpu", backend.options_type.model_validate({"threads": 1, **options}))
    assert isinstance(session, Session)
    session.reserve(batch, inputs, outputs)
    return session


def generate(session: Session, prompt: Any, mask: Any = None, count: int = 12) -> Any:
    tokens = [session.start(prompt, mask).copy()]
    for _ in range(count - 1):
        tokens.append(session.step(tokens[-1]).copy())
    return np.stack(tokens, axis=1)


def padded(name: str, lengths: tuple[int, ...]) -> tuple[list[Any], Any, Any]:
    """Prompts of unequal length, and the same as a batch with its mask."""
    checkpoint, rng, longest = resolve(name), np.random.default_rng(0), max(lengths)
    prompts = [rng.integers(4, checkpoint.geometry.vocab_size, length) for length in lengths]
    shape = (len(lengths), longest)
    ids, mask = np.full(shape, checkpoint.pad_token_id), np.zeros(shape, np.int64)
    for row, prompt in enumerate(prompts):
        right = checkpoint.family == "encoder-decoder"
        place = slice(0, len(prompt)) if right else slice(longest - len(prompt), longest)
        ids[row, place], mask[row, place] = prompt, 1
    return prompts, ids, mask


def assert_golden(session: Session, artifact: Artifact, precision: str = "fp32") -> None:
    family, tolerance = artifact.manifest.checkpoint.family, MARGIN_TOLERANCE[precision]
    found = agreement(session, artifact.golden().prompts, tolerance, family)
    assert found.equal == found.compared > 20


@pytest.mark.parametrize("name", TINY)
def test_every_golden_token_comes_out(name: str) -> None:
    artifact = artifact_of(name)
    session = open_session(artifact)
    assert_golden(session, artifact)
    # transformers' SDPA would drop T5Gemma's soft-capping, and its T5 has none.
    eager = not session._model._supports_sdpa or name == "t5gemma-tiny"
    assert session.attention_path() == ("eager" if eager else "SDPA")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-tiny", "gemma3-tiny", "mu-tiny", "t5-tiny"])
def test_compiled_steps_give_the_same_tokens(name: str) -> None:
    artifact = artifact_of(name)
    session = open_session(artifact, compile=True)
    assert_golden(session, artifact)
    assert session.attention_path().endswith(", compiled")
    session.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-tiny", "gemma3-tiny", "bart-tiny"])
def test_a_padded_batch_runs_compiled(name: str) -> None:
    _, ids, mask = padded(name, (9, 31, 20))
    artifact = artifact_of(name)
    eager = generate(open_session(artifact, 3, 31, 12), ids, mask)
    session = open_session(artifact, 3, 31, 12, compile=True)
    assert np.array_equal(generate(session, ids, mask), eager)
    session.close()


@pytest.mark.parametrize("name", TINY)
def test_a_padded_batch_gives_what_each_prompt_gives_alone(name: str) -> None:
    prompts, ids, mask = padded(name, (9, 31, 20))
    artifact = artifact_of(name)
    together = generate(open_session(artifact, 3, 31, 12), ids, mask)
    alone = open_session(artifact, 1, 31, 12)
    for row, prompt in enumerate(prompts):
        assert together[row].tolist() == generate(alone, prompt[None])[0].tolist()


@pytest.mark.parametrize("name", ["llama-tiny", "t5-tiny"])
def test_bf16_is_read_back_and_computes(name: str) -> None:
    artifact = artifact_of(name)
    logits = {}
    for precision in ("fp32", "bf16"):
        session: Any = open_session(artifact, compute_precision=precision)
        pick = session._next_tokens
        kept: list[Any] = []
        session._next_tokens = lambda found, pick=pick, kept=kept: (kept.append(found.float()), pick(found))[1]
        session.start(np.full((1, 8), 7))
        assert session.compute_precision() == precision
        logits[precision] = kept[0]
    assert not torch.equal(logits["fp32"], logits["bf16"])


def test_reduced_products_are_no_fp32() -> None:
    session = open_session(artifact_of("llama-tiny"))
    torch.set_float32_matmul_precision("medium")
    try:
        assert session.compute_precision() == "reduced fp32"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_threads_are_set() -> None:
    for threads in (2, 1):
        assert open_session(artifact_of("llama-tiny"), threads=threads).threads() == threads == torch.get_num_threads()


@pytest.mark.parametrize("name", ["t5-tiny", "bart-tiny", "mu-tiny"])
def test_cross_kv_are_projected_once_a_prompt(name: str) -> None:
    session: Any = open_session(artifact_of(name))
    fed: list[int] = []
    marks = ("EncDecAttention.k", "encoder_attn.k_proj", "cross_attn.k_proj")
    for path, module in session._model.named_modules():
        if path.endswith(marks):
            module.register_forward_pre_hook(lambda _, given: fed.append(given[0].shape[1]))
    generate(session, np.full((1, 40), 7), count=6)
    layers = resolve(name).geometry.decoder_layers
    # A second prompt, so that an answer from the first's K/V would show.
    generate(session, np.full((1, 33), 9), count=6)
    assert fed == [40] * layers + [33] * layers


@pytest.mark.parametrize("name", ["llama-tiny", "gemma3-tiny", "t5-tiny"])
def test_steps_allocate_no_kv(name: str) -> None:
    session: Any = open_session(artifact_of(name))
    layers = session._past.layers if session._past is not None else session._self_kv.layers
    generate(session, np.full((1, 40), 7), count=2)
    before = [(layer.keys.data_ptr(), layer.values.data_ptr()) for layer in layers]
    generate(session, np.full((1, 21), 8), count=10)
    assert [(layer.keys.data_ptr(), layer.values.data_ptr()) for layer in layers] == before


@pytest.mark.parametrize("name", ["llama-tiny", "t5-tiny"])
def test_start_forgets_the_generation_before(name: str) -> None:
    rng = np.random.default_rng(1)
    first, second = rng.integers(4, 1000, (1, 30)), rng.integers(4, 1000, (1, 11))
    session = open_session(artifact_of(name))
    fresh = generate(session, first)
    assert not np.array_equal(fresh[:, :5], generate(session, second, count=5))
    assert np.array_equal(generate(session, first), fresh)


@pytest.mark.parametrize("name", ["llama-tiny", "t5-tiny"])
def test_kv_of_an_earlier_shape_are_freed_without_the_collector(name: str) -> None:
    """A worker hardly ever looks for cycles, and each window of a text is reserved again."""
    session: Any = open_session(artifact_of(name))
    prompt = np.full((1, 4), 5)

    def held() -> Any:
        cache = session._past if name == "llama-tiny" else session._self_kv
        return weakref.ref(cache.layers[0].keys)

    with collector_paused():
        generate(session, prompt, count=2)
        before = held()
        assert before() is not None
        session.reserve(1, 48, 24)
        generate(session, prompt, count=2)
        assert before() is None
        assert held()() is not None


@pytest.mark.parametrize("name", ["llama-tiny", "t5-tiny"])
def test_shapes_beyond_what_is_reserved_are_refused(name: str) -> None:
    session = open_session(artifact_of(name), 1, 8, 4)
    for shape in ((1, 9), (2, 8)):
        with pytest.raises(BadInputError, match=rf"{shape[0]}x{shape[1]} tokens\) exceeds what is reserved \(1x8"):
            session.start(np.full(shape, 5))
    generate(session, np.full((1, 8), 5), count=4)
    with pytest.raises(BadInputError, match="beyond the 4 new tokens"):
        session.step(np.array([5]))


def test_a_window_is_a_view_of_the_buffer() -> None:
    from slmbench.backends.torch.kv_cache import BufferedLayer  # type: ignore[import-not-found]

    layer = BufferedLayer(1, 12, window=4)
    states = torch.arange(24.0).reshape(1, 1, 12, 2)
    keys, _ = layer.update(states[:, :, :6], states[:, :, :6])
    assert torch.equal(keys, states[:, :, :6])  # a prompt: the mask keeps its window
    for position in range(6, 12):
        assert layer.get_mask_sizes(1) == (4, position - 3)
        one = states[:, :, position : position + 1]
        keys, values = layer.update(one, one)
        assert torch.equal(keys, states[:, :, position - 3 : position + 1])
        assert values.data_ptr() == layer.values.data_ptr() + values.storage_offset() * 4
    layer.reset()
    assert layer.get_seq_length() == 0


def test_what_torch_lacks_is_told() -> None:
    backend = load_backend("torch")
    artifact = artifact_of("llama-tiny")
    assert backend.artifact_specs(resolve("llama-tiny"), "int8", "cpu") == ()
    statuses = {status.device: status for status in backend.devices()}
    assert statuses["cpu"].available
    assert "npu" not in statuses
    for device in ("gpu", "npu"):
        if device not in statuses or not statuses[device].available:
            with pytest.raises(CannotRunError):
                backend.open(artifact, device, backend.options_type())


def test_a_damaged_checkpoint_is_one_line(tmp_path: Any) -> None:
    artifact = artifact_of("llama-tiny")
    (tmp_path / "config.json").write_bytes((artifact.folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((artifact.folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(BadInputError, match=r"model\.safetensors: .* claims bytes beyond the file's end") as caught:
        open_session(Artifact(tmp_path, artifact.manifest))
    assert "\n" not in str(caught.value)
