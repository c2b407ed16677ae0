"""Networks that take pictures: features in the place of image tokens are all that the whole makes of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import picture_folders
import pytest
from rotation import in_turn

from slmbench.errors import CannotRunError
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.models.picture_places import pictures_in_place, positions_of_prompt

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

CATALOG = ["mu-vision-tiny", "dec-vision-tiny"]
EVERY = [*CATALOG, *picture_folders.NAMES]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a checkpoint by its name in the catalog or in ``picture_folders``; a folder is made once."""
    kept: dict[str, Checkpoint] = {}

    def of(name: str) -> Checkpoint:
        if name not in kept:
            made = name if name in CATALOG else picture_folders.make(name, tmp_path_factory.mktemp(name))
            kept[name] = resolve(str(made))
        return kept[name]

    return of


def _logits(checkpoint: Checkpoint, network: Any, pixels: Any) -> tuple[Any, Any]:
    """Return the logits of all positions: the whole's, and the text network's with features in place."""
    facts = checkpoint.vision
    assert facts is not None
    given = dict(zip(network.inputs, pixels, strict=True))
    features = network.vision(*pixels)
    width = checkpoint.geometry.encoder_side.width
    assert features.shape == (facts.image_tokens(given), width * (1 + facts.added_layers))
    row = [5, 6] + [facts.image_token_id] * features.shape[0] + list(range(7, 40))
    if facts.merge_size:
        # Each picture is a run of image tokens of its own, by which the whole knows where one ends.
        row.insert(2 + features.shape[0] // 2, 6)
    ids = torch.tensor([row])
    more = {}
    if checkpoint.family == "encoder-decoder":
        more = {"decoder_input_ids": torch.tensor([[checkpoint.decoder_start_token_id, 20, 30]])}
    whole = network.whole(input_ids=ids, **given, **more).logits
    with pictures_in_place(network.text, facts, ids, features, given):
        return whole, network.text(input_ids=ids, **more).logits


@pytest.mark.parametrize(
    ("name", "attention"), [*((name, "eager") for name in EVERY), *((name, "sdpa") for name in in_turn(EVERY, 5))]
)
@torch.inference_mode()
def test_merged_features_are_the_whole_road(name: str, attention: str, checkpoints: Any) -> None:
    """The whole's own forward against vision, merging and text, at every position; another picture, other logits."""
    from slmbench.export.picture_network import load_with_pictures

    checkpoint = checkpoints(name)
    network = load_with_pictures(checkpoint, attention)
    pixels = network.example(2)
    whole, ours = _logits(checkpoint, network, pixels)
    assert float((whole - ours).abs().max()) < 1e-4
    other, _ = _logits(checkpoint, network, (pixels[0].flip(-1), *pixels[1:]))
    # Of the last position, where the answer begins.
    assert float((whole[:, -1] - other[:, -1]).std() / whole.std()) > 0.1


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_positions_of_a_prompt_are_transformers_own(name: str) -> None:
    """Two pictures of two shapes among words; what comes behind the table counts on from its largest."""
    whole = picture_folders.network(name)
    token = whole.config.image_token_id
    grids = torch.tensor([[1, 4, 6], [1, 10, 4]])
    ids = torch.tensor([[5, 6, 7] + [token] * 6 + [8, 9] + [token] * 10 + [10, 11, 12]])
    theirs, delta = whole.model.get_rope_index(ids, mm_token_type_ids=(ids == token).int(), image_grid_thw=grids)
    ours = positions_of_prompt(ids[0].numpy(), token, grids.numpy(), 2)
    assert ours.shape == (3, 21)
    assert np.array_equal(ours, theirs[:, 0, :21].numpy())
    assert ours.max() + 1 - 21 == int(delta)
    assert positions_of_prompt(ids[0, :3].numpy(), token, grids[:0].numpy(), 2).tolist() == [[0], [0], [0]]


@torch.inference_mode()
def test_image_tokens_of_gemma3_see_each_other(checkpoints: Any) -> None:
    """With a plain causal mask the logits would be others: the test above could not pass without the masks."""
    from slmbench.export.picture_network import load_with_pictures

    checkpoint = checkpoints("gemma3")
    network = load_with_pictures(checkpoint)
    network.text._forward_pre_hooks.clear()
    whole, ours = _logits(checkpoint, network, network.example(1))
    assert float((whole - ours).abs().max()) > 1e-2


@torch.inference_mode()
def test_a_pair_has_one_vision_part(checkpoints: Any) -> None:
    """Both networks of a pair make the same of a picture, but for the factor by which T5Gemma scales its input."""
    from slmbench.export.picture_network import load_with_pictures

    first, second = (load_with_pictures(checkpoints(name)) for name in CATALOG)
    (pixels,) = first.example(1)
    width = checkpoints(CATALOG[0]).geometry.encoder_side.width
    assert torch.allclose(first.vision(pixels) * width**0.5, second.vision(pixels), atol=1e-5)


def test_text_and_whole_share_their_weights(checkpoints: Any) -> None:
    from slmbench.export.picture_network import load_with_pictures

    network = load_with_pictures(checkpoints("smolvlm"))
    of_whole = {parameter.data_ptr() for parameter in network.whole.parameters()}
    assert {parameter.data_ptr() for parameter in network.text.parameters()} <= of_whole


def test_a_text_model_is_refused(checkpoints: Any) -> None:
    from slmbench.export.picture_network import load_with_pictures

    with pytest.raises(CannotRunError, match="mu-tiny: takes no pictures"):
        load_with_pictures(resolve("mu-tiny"))


def test_another_number_of_image_tokens_than_the_config_says_is_refused(checkpoints: Any) -> None:
    from slmbench.export.picture_network import load_with_pictures

    checkpoint = checkpoints("llava")
    wrong = checkpoint.vision.model_copy(update={"tokens_per_tile": 9})
    with pytest.raises(CannotRunError, match="makes 16 image tokens of a picture, config.json says 9"):
        load_with_pictures(checkpoint.model_copy(update={"vision": wrong}))


def test_another_way_of_merging_is_refused(checkpoints: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose image tokens see each other, taken for one where they do not."""
    from slmbench.export.picture_network import load_with_pictures
    from slmbench.models import picture_parts

    monkeypatch.setattr(picture_parts, "join_image_tokens", lambda *_: None)
    with pytest.raises(CannotRunError, match="pictures go into a 'gemma3_text' of this kind in another way"):
        load_with_pictures(checkpoints("gemma3"))


def test_a_folder_without_its_vision_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    from slmbench.errors import BadInputError
    from slmbench.export.picture_network import load_with_pictures

    folder = picture_folders.make("smolvlm", tmp_path / "half")
    path = folder / "model.safetensors"
    kept = {name: one for name, one in load_file(path).items() if "connector" not in name}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(BadInputError, match=r"lack 1 of the parameters .* model.connector"):
        load_with_pictures(resolve(str(folder)))
