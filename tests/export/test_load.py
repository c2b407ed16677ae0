"""Random weights: the same bytes everywhere, and networks whose answers depend on their prompts."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmbench.errors import BadInputError
from slmbench.export.golden_record import golden_prompts, make_golden
from slmbench.export.torch_model import draw, load_model
from slmbench.models import catalog
from slmbench.models.checkpoint import resolve

torch = pytest.importorskip("torch")
TINY = [entry.name for entry in catalog.entries() if entry.name.endswith("-tiny") and entry.whole is None]


def test_the_draw_is_fixed_for_ever() -> None:
    """Another value here means that every artifact's digest must change with it (catalog.WEIGHTS_SCHEME)."""
    values = draw("layer.weight", (3, 1000), 0.02)
    assert hashlib.sha256(values.astype("<f4").tobytes()).hexdigest() == (
        "d799be4f03383d9c46bcb569531ca7b2915e4167c847d15b9bbfa63e34500c32"
    )


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), deviation=st.floats(1e-3, 10))
def test_a_draw_has_the_asked_spread(rows: int, columns: int, deviation: float) -> None:
    values = draw(f"{rows}x{columns}", (rows, columns), deviation).astype(np.float64)
    assert values.shape == (rows, columns)
    # A uniform distribution's edge, and five standard errors of the mean.
    assert np.abs(values).max() <= deviation * math.sqrt(3) * (1 + 1e-6)
    assert abs(values.mean()) <= 5 * deviation / math.sqrt(values.size)


def test_a_draw_does_not_depend_on_what_was_drawn_before() -> None:
    alone = draw("b", (100,), 1.0)
    draw("a", (1 << 20 | 5,), 1.0)
    assert (draw("b", (100,), 1.0) == alone).all()
    assert not (draw("c", (100,), 1.0) == alone).any()


def test_long_draws_continue_over_chunks() -> None:
    values = draw("long", ((1 << 21) + 3,), 1.0).astype(np.float64)
    assert abs(values.std() - 1) < 1e-2
    assert np.unique(values[: 1 << 16]).size > 1 << 15
    assert abs(np.corrcoef(values[: 1 << 20], values[1 << 20 : 1 << 21])[0, 1]) < 5e-3


@pytest.mark.parametrize("name", TINY)
def test_networks_are_whole_and_repeatable(name: str) -> None:
    checkpoint = resolve(name)
    model, again = load_model(checkpoint), load_model(checkpoint)
    text = [one for path, one in model.named_parameters() if not re.search("vision_tower|multi_modal", path)]
    assert sum(parameter.numel() for parameter in text) == checkpoint.parameter_count
    assert not model.training
    first, second = model.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert tensor.dtype == torch.float32 or not tensor.is_floating_point()
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, second[key]), key


def _embeddings(model: Any) -> list[Any]:
    return [model.get_encoder().embed_tokens.weight, model.get_decoder().embed_tokens.weight]


def test_the_papers_models_share_one_embedding() -> None:
    model: Any = load_model(resolve("mu-tiny"))
    encoder, decoder = _embeddings(model)
    assert encoder is decoder
    assert model.get_output_embeddings().weight is decoder
    encoder, decoder = _embeddings(load_model(resolve("t5gemma-tiny")))
    assert encoder is not decoder


def test_gated_t5_has_a_head_of_its_own() -> None:
    model: Any = load_model(resolve("flan-t5-tiny"))
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    model = load_model(resolve("t5-tiny"))
    assert model.lm_head.weight is model.shared.weight


@pytest.mark.parametrize("name", TINY)
def test_answers_depend_on_the_prompt(name: str) -> None:
    """Else a broken cross-attention or a forgotten mask would go unseen."""
    checkpoint = resolve(name)
    model = load_model(checkpoint)
    record = make_golden(model, checkpoint, output_tokens=12)
    first, second = record.prompts
    assert first.tokens != second.tokens
    assert not set(first.tokens + second.tokens) & set(checkpoint.eos_token_ids)
    assert all(0 <= margin < 10 for prompt in record.prompts for margin in prompt.margins)
    sure = [margin > 1e-3 for prompt in record.prompts for margin in prompt.margins]
    assert sum(sure) >= 0.9 * len(sure)


def test_golden_prompts_avoid_special_tokens_and_keep_bounds() -> None:
    checkpoint = resolve("marian-tiny")
    prompts = golden_prompts(checkpoint)
    assert [len(prompt) for prompt in prompts] == [48, 29]
    special = {*checkpoint.eos_token_ids, checkpoint.pad_token_id, checkpoint.decoder_start_token_id}
    assert not special & {int(token) for prompt in prompts for token in prompt}
    assert [len(prompt) for prompt in golden_prompts(checkpoint, 32)] == [32, 29]


@pytest.mark.parametrize("name", ["llama-tiny", "t5-tiny"])
def test_weights_that_lack_a_layer_are_refused(name: str, tmp_path: Path) -> None:
    load_model(resolve(name)).save_pretrained(tmp_path / "whole")
    layers = "num_hidden_layers" if name != "t5-tiny" else "num_layers"
    assert load_model(resolve(str(tmp_path / "whole"))) is not None
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    config[layers] += 1
    (tmp_path / "whole" / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInputError, match=r"3 (encoder|decoder) layers do not fit the weights, which have 2"):
        load_model(resolve(str(tmp_path / "whole")))
