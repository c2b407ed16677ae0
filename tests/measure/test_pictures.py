"""Pictures: drawn, read from strangers' files, and made into what a vision network reads."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import picture_folders
import pytest

from slmbench.errors import BadInputError, SlmbenchError
from slmbench.measure.pictures import CLIP_MEAN, CLIP_STD, PictureFile, Processor, drawn, read, read_pictures
from slmbench.models.checkpoint import resolve

Image = pytest.importorskip("PIL.Image", reason="needs slmbench[pictures]")


def png(width: int, height: int, data: bytes = b"\0" * 1000) -> bytes:
    """Return a PNG that says this size and has hardly any pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def saved(path: Path, seed: int = 1, size: tuple[int, int] = (40, 30), **how: object) -> Path:
    Image.fromarray(drawn(seed, *size)).save(path, **how)
    return path


def test_the_same_seed_draws_the_same_picture_on_any_machine() -> None:
    first = drawn([7, 1], 5, 3)
    assert first.shape == (3, 5, 3)
    assert (first == drawn([7, 1], 5, 3)).all()
    assert (first != drawn([7, 2], 5, 3)).any()
    # The bits of PCG64, which NumPy keeps: written down so that another version shows.
    assert drawn(3, 2, 1).ravel().tolist() == [248, 194, 190, 207, 147, 26]


def test_a_photo_is_turned_upright_and_keeps_nothing_but_pixels(tmp_path: Path) -> None:
    image = Image.fromarray(drawn(1, 40, 30))
    exif = image.getexif()
    exif[0x0112], exif[0x010F] = 6, "SECRET-CAMERA"
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read(tmp_path / "a.jpg").shape == (40, 30, 3)
    (one,) = read_pictures(tmp_path / "a.jpg").files
    assert "SECRET" not in repr(one)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (png(10_000, 10_000), "more pixels than are taken"),
        (png(60_000, 60_000), "more pixels than are taken"),
        (png(100, 100), "damaged"),
        (b"hello", "unknown content"),
        (b"", "unknown content"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unknown content"),
    ],
)
def test_bombs_and_damaged_files_are_one_line(tmp_path: Path, content: bytes, part: str) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(content)
    with pytest.raises(BadInputError) as caught:
        read_pictures(file)
    assert part in str(caught.value)
    # The text may get into results; the name is for the screen.
    assert str(caught.value).startswith("--image: ")
    assert caught.value.__notes__ == [f"that picture is {file}"]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ({"prompt": "What is this?", "image": "a.png"}, "0 times where its picture goes"),
        ({"prompt": "<image> and <image>", "image": "a.png"}, "2 times"),
        ({"prompt": "<image> x"}, '"image"'),
        ({"image": "a.png"}, '"prompt"'),
        ({"prompt": "<image> x", "image": "missing.png"}, "image: No such file"),
        ("a.png", '"prompt"'),
    ],
)
def test_a_line_without_its_picture_or_its_place_is_named(tmp_path: Path, line: object, part: str) -> None:
    saved(tmp_path / "a.png")
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps({"prompt": "<image> Why?", "image": "a.png"}) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(BadInputError) as caught:
        read_pictures(file)
    assert part in str(caught.value)
    assert str(caught.value).startswith(f"{file}:2: ")
    assert "missing" not in str(caught.value)


def test_a_folder_and_json_lines_give_their_pictures_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate(["b.png", "a.png"]):
        saved(folder / name, seed)
    (folder / "notes.txt").write_text("no picture")
    found = read_pictures(folder)
    assert [one.path.name for one in found.files] == ["a.png", "b.png"]
    assert not found.texts
    lines = tmp_path / "q.jsonl"
    lines.write_text(json.dumps({"prompt": "<image> Why?", "image": "photos/b.png"}) + "\n")
    asked = read_pictures(lines)
    assert asked.texts == ("<image> Why?",)
    assert asked.files == found.files[1:]
    assert asked.digest != found.digest
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(BadInputError, match="photos: picture 1 of 2 by name: not a picture") as caught:
        read_pictures(folder)
    assert "a.png" not in str(caught.value)
    assert caught.value.__notes__ == [f"that picture is {folder / 'a.png'}"]
    with pytest.raises(BadInputError, match="no pictures in it"):
        read_pictures((tmp_path / "empty").mkdir() or tmp_path / "empty")


def test_a_picture_that_changes_while_a_run_lasts_is_noticed(tmp_path: Path) -> None:
    (one,) = read_pictures(saved(tmp_path / "a.png")).files
    assert (one.read() == drawn(1, 40, 30)).all()
    saved(tmp_path / "a.png", seed=2)
    with pytest.raises(BadInputError, match="^--image: was changed after this run began"):
        PictureFile(one.path, one.sha256).read()


def test_a_catalog_model_reads_a_square_normalised_as_clips() -> None:
    processor = Processor.of(resolve("mu-vision-tiny"))
    even = np.full((9, 30, 3), 128, np.uint8)
    pixels = processor([even, drawn(1, 64, 64)])
    assert list(pixels) == ["pixel_values"]
    found = pixels["pixel_values"]
    assert (found.shape, found.dtype) == ((2, 3, 64, 64), np.float32)
    expected = (128 / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    assert np.abs(found[0] - expected[:, None, None]).max() < 1e-6
    # A picture of the network's own size is not resampled.
    plain = (drawn(1, 64, 64) / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    assert np.abs(found[1] - plain.transpose(2, 0, 1)).max() < 1e-5
    assert len(processor.prompt_of(pixels)) == 2 * 8
    assert "64x64" in processor.settings
    with pytest.raises(SlmbenchError, match="takes no pictures"):
        Processor.of(resolve("mu-tiny"))


@pytest.mark.slow
def test_a_checkpoints_own_processor_cuts_a_large_picture_into_tiles(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the folder's weights are made with slmbench[export]")
    from picture_folders import make

    make("smolvlm", tmp_path / "smolvlm")
    checkpoint = resolve(str(tmp_path / "smolvlm"))
    processor = Processor.of(checkpoint)
    assert checkpoint.vision is not None
    small, large = processor([drawn(1, 64, 64)]), processor([drawn(1, 256, 256)])
    for pixels in (small, large):
        tiles, *shape = pixels["pixel_values"].shape
        assert shape == [3, 64, 64]
        assert len(processor.prompt_of(pixels)) == tiles * checkpoint.vision.tokens_per_tile
    assert processor.settings.startswith("SmolVLMImageProcessor")
    # As transformers 5 saves it: inside the settings of the whole processor, and nowhere else.
    alone = tmp_path / "smolvlm" / "preprocessor_config.json"
    whole = {"processor_class": "SmolVLMProcessor", "image_processor": json.loads(alone.read_text(encoding="utf-8"))}
    alone.with_name("processor_config.json").write_text(json.dumps(whole), encoding="utf-8")
    alone.unlink()
    nested = resolve(str(tmp_path / "smolvlm"))
    assert nested.vision == checkpoint.vision
    assert Processor.of(nested).settings == processor.settings
    assert (Processor.of(nested)([drawn(1, 256, 256)])["pixel_values"] == large["pixel_values"]).all()
    alone.with_name("processor_config.json").unlink()
    (tmp_path / "smolvlm" / "preprocessor_config.json").write_text('{"image_processor_type": "NoSuchProcessor"}')
    with pytest.raises(BadInputError, match="not a processor of pictures"):
        Processor.of(checkpoint)


@pytest.mark.parametrize("name", ["smolvlm", "idefics3"])
def test_words_around_tiles_are_those_of_the_checkpoints_own_processor(name: str, tmp_path: Path) -> None:
    """One picture that is cut up, two of different shapes in one prompt, and one that is not cut."""
    from transformers import PreTrainedTokenizerFast
    from transformers.models.idefics3.processing_idefics3 import get_image_prompt_string

    folder = picture_folders.with_words(picture_folders.make(name, tmp_path / name))
    checkpoint = resolve(str(folder))
    assert checkpoint.vision is not None
    words = ("<fake_token_around_image>", "<image>", "<global-img>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    processor = Processor.of(checkpoint)

    def theirs(cuts: list[tuple[int, int]]) -> list[int]:
        assert checkpoint.vision is not None
        text = "".join(get_image_prompt_string(*cut, checkpoint.vision.tokens_per_tile, *words) for cut in cuts)
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    for sizes in ([(128, 100)], [(60, 60), (200, 20)]):
        pixels = processor([drawn(1, *size) for size in sizes])
        cuts = list(zip(pixels["rows"].ravel().tolist(), pixels["cols"].ravel().tolist(), strict=True))
        assert cuts[0] == (2, 2)
        ours = processor.prompt_of(pixels).tolist()
        assert ours == theirs(cuts)
        assert ours.count(checkpoint.vision.image_token_id) == checkpoint.vision.image_tokens(pixels)
    whole = {"rows": np.array([[0]]), "cols": np.array([[0]])}
    assert checkpoint.vision.prompt_of(whole) == theirs([(0, 0)])
    with pytest.raises(BadInputError, match="no token for a picture of 4 x 1 tiles"):
        checkpoint.vision.prompt_of({"rows": np.array([[4]]), "cols": np.array([[1]])})
    (folder / "tokenizer.json").unlink()
    alone = resolve(str(folder)).vision
    assert alone is not None
    assert alone.words is None
