"""The torch backend runs every architecture that transformers loads, whatever its layers keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest

from slmbench.backend import load_backend
from slmbench.export.build import ensure_artifact
from slmbench.measure.proof import agreement
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve

torch = pytest.importorskip("torch", reason="needs slmbench[export]")

SPEC = ArtifactSpec(format="torch", weight_precision="fp32", exporter="none")
QUICK = {"qwen2", "gemma3", "granitemoehybrid", "t5gemma"}


def open_session(folder: Path, batch: int = 1) -> tuple[Any, Any]:
    artifact = ensure_artifact(resolve(str(folder)), SPEC, progress=lambda _: None)
    backend = load_backend("torch")
    session: Any = backend.open(artifact, "cpu", backend.options_type.model_validate({"threads": 1}))
    session.reserve(batch, 48, 24)
    return artifact, session


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in architectures.names()]
)
def test_every_token_is_transformers_own(name: str, tmp_path: Path) -> None:
    """The reference's tokens come out of our loop, and the reference's are those of transformers' generate."""
    folder = architectures.make(name, tmp_path / name)
    artifact, session = open_session(folder)
    prompts = artifact.golden().prompts
    found = agreement(session, prompts, 0.0, artifact.manifest.checkpoint.family)
    assert found.equal == found.compared > 20
    # transformers 5.5's generate fails on a hybrid type without recurrent layers; the network itself does not.
    if artifact.manifest.checkpoint.family == "decoder-only" and name != "granitemoehybrid.dense":
        assert own_answer(name, prompts[0].input_ids) == list(prompts[0].tokens[:8])


def own_answer(name: str, prompt: tuple[int, ...]) -> list[int]:
    from transformers import GenerationConfig

    model, ids = architectures.network(name), torch.tensor([prompt])
    ends = model.config.get_text_config(decoder=True).eos_token_id
    model.generation_config = GenerationConfig(suppress_tokens=ends if isinstance(ends, list) else [ends])
    with torch.inference_mode():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    return list(map(int, found[0, ids.shape[1] :]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3n_text", "granitemoehybrid", "lfm2", "qwen3_5_text", "falcon", "t5gemma2"])
def test_a_padded_batch_gives_what_each_prompt_gives_alone(name: str, tmp_path: Path) -> None:
    folder = architectures.make(name, tmp_path / name)
    right = name in architectures.names("encoder-decoder")
    rng = np.random.default_rng(0)
    prompts = [rng.integers(4, 1000, length) for length in (9, 31)]
    ids, mask = np.zeros((2, 31), np.int64), np.zeros((2, 31), np.int64)
    for row, prompt in enumerate(prompts):
        place = slice(0, len(prompt)) if right else slice(31 - len(prompt), 31)
        ids[row, place], mask[row, place] = prompt, 1
    _, session = open_session(folder, 2)
    together = answer(session, ids, mask)
    _, session = open_session(folder, 1)
    for row, prompt in enumerate(prompts):
        assert together[row].tolist() == answer(session, prompt[None])[0].tolist()


def answer(session: Any, ids: Any, mask: Any = None, count: int = 8) -> Any:
    tokens = [session.start(ids, mask).copy()]
    for _ in range(count - 1):
        tokens.append(session.step(tokens[-1]).copy())
    return np.stack(tokens, axis=1)
