"""The catalog's networks without torch have torch's parameters: names, shapes and every byte."""

from __future__ import annotations

import pytest

from slmbench.models import catalog, catalog_network

torch = pytest.importorskip("torch", reason="needs slmbench[export]")
#: Where pictures go in, the text part is another one of the list.
KNOWN = [entry.name for entry in catalog.entries() if catalog_network.is_known(entry.name) and entry.whole is None]


def test_pairs_of_ours_are_known() -> None:
    assert {f"{side}-{size}" for side in ("mu", "dec") for size in ("tiny", "small", "330m", "1b")} <= set(KNOWN)
    assert {"mu-330m-half", "mu-330m-third", "llama-tiny", "qwen3-tiny", "smollm3-tiny", "smollm2-135m"} <= set(KNOWN)
    assert not {"t5-tiny", "t5gemma-tiny", "gemma3-tiny", "mistral-tiny", "llama3.2-1b"} & set(KNOWN)


@pytest.mark.parametrize("name", [name for name in KNOWN if name.endswith("-tiny")])
def test_parameters_are_those_of_torch(name: str) -> None:
    from slmbench.export.torch_model import load_model
    from slmbench.models.checkpoint import resolve

    drawn = dict(catalog_network.network(name).named_parameters())
    theirs = dict(load_model(resolve(name)).named_parameters())
    assert drawn.keys() == theirs.keys()
    for key, parameter in theirs.items():
        assert drawn[key].weight.tobytes() == parameter.numpy().tobytes(), key


@pytest.mark.parametrize("name", [name for name in KNOWN if not name.endswith("-tiny")])
def test_larger_ones_have_the_names_and_shapes(name: str) -> None:
    entry = catalog.get(name)
    if entry.parameter_count > 400_000_000:
        pytest.skip("the same code as the smaller ones")
    from slmbench.export.torch_model import build_empty

    drawn = {key: leaf.shape for key, leaf in catalog_network.network(name).named_parameters()}
    assert drawn == {key: tuple(one.shape) for key, one in build_empty(entry).named_parameters()}


@pytest.mark.parametrize("name", ["mu-tiny", "dec-tiny", "qwen3-tiny", "smollm3-tiny"])
def test_rotary_frequencies_are_those_of_torch(name: str) -> None:
    import numpy as np

    from slmbench.export.torch_model import build_empty

    ours, theirs = catalog_network.network(name), build_empty(catalog.get(name))
    pairs = [(ours.model, theirs.model)]
    if name == "mu-tiny":
        pairs = [(ours.get_encoder(), theirs.get_encoder()), (ours.get_decoder(), theirs.get_decoder())]
    for one, other in pairs:
        np.testing.assert_allclose(one.rotary_emb.inv_freq, other.rotary_emb.inv_freq.numpy(), rtol=2e-7)
        assert one.rotary_emb.attention_scaling == other.rotary_emb.attention_scaling
