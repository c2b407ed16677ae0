"""Pictures of a sample: drawn from a seed or read from the user's files, and made into what a vision network reads."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import ENGINES_OWN, Pixels
from slmbench.errors import BadInputError, CannotRunError, first_error_line
from slmbench.measure.text_prompts import PROMPT_KEYS, is_json_lines, read_text
from slmbench.models.artifact import GoldenPicture
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.picture_processor import MakePixels, has_own_processor, own_processor
from slmbench.models.vision_facts import VisionFacts
from slmbench.system.extras import needed
from slmbench.system.files import read_regular

Picture = NDArray[np.uint8]
#: Stands in a text of the user where its picture goes, whatever the model's own word for it is.
PLACE = "<image>"
MAX_FILES = 1_000
MAX_BYTES = 50_000_000
#: Raster formats that Pillow decodes itself: others start programs (EPS) or fetch what they name.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
#: Mean and standard deviation of the red, green and blue of CLIP's training pictures (arXiv 2103.00020, its code).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def drawn(seed: int | Sequence[int], width: int, height: int) -> Picture:
    """Return a picture ``[height, width, 3]`` of random pixels; the same for the same seed on any machine."""
    words = np.random.PCG64(seed).random_raw(-(-width * height * 3 // 8))
    pixels = np.asarray(words, dtype="<u8").view(np.uint8)[: width * height * 3]
    return pixels.reshape(height, width, 3)


def read(path: Path) -> Picture:
    """Return the pixels ``[height, width, 3]`` of a file, turned upright; nothing else of it is kept.

    Raises:
        BadInputError: it cannot be read, is no picture, or has more pixels than Pillow takes from strangers. The text
            does not name the file, see :class:`PictureFile`.
        CannotRunError: Pillow is missing.
    """
    image = _pillow()
    try:
        raw = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise BadInputError(str(error.strerror)) from error
    try:
        with warnings.catch_warnings():
            # Pillow warns from its limit on and refuses from twice that on; either is too much here.
            warnings.simplefilter("error", image.DecompressionBombWarning)
            with image.open(BytesIO(raw), formats=FORMATS) as opened:
                from PIL import ImageOps

                return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"), dtype=np.uint8)
    except (image.DecompressionBombWarning, image.DecompressionBombError) as error:
        most = image.MAX_IMAGE_PIXELS or 0
        raise BadInputError(f"has more pixels than are taken ({most:,}); make the picture smaller") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise what they like at damaged files: SyntaxError, struct.error, ...
        raise BadInputError(
            f"not a picture that can be read ({', '.join(FORMATS)}), or a damaged one: {_said(error)}"
        ) from error


def _said(error: Exception) -> str:
    # Pillow names the object in memory that it was given.
    return "unknown content" if "cannot identify" in str(error) else first_error_line(error)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise CannotRunError(needed(error, "to read and resize pictures")) from error
    return Image


@dataclass(frozen=True)
class PictureFile:
    """A picture of the user, by its content: the file may change while a run lasts.

    What a person called it is theirs, and errors get into results and logs that are passed on: their text says which
    picture it is by its place. The screen names the file as well, in a note of the error.
    """

    path: Path
    sha256: str
    #: Where it comes from: "--image", "photos: picture 3 of 12 by name", "pairs.jsonl:3: image".
    place: str = dataclass_field(default="--image", compare=False)

    @classmethod
    def of(cls, path: Path, place: str) -> PictureFile:
        """Return the picture in a file, decoded once; raises as :meth:`read`."""
        with _named(path, place):
            return cls(path.absolute(), _digest(read(path)), place)

    def read(self) -> Picture:
        """Return its pixels.

        Raises:
            BadInputError: it can no longer be read, or is another picture.
        """
        with _named(self.path, self.place):
            pixels = read(self.path)
            if _digest(pixels) != self.sha256:
                raise BadInputError("was changed after this run began")
        return pixels


@contextmanager
def _named(path: Path, place: str) -> Iterator[None]:
    try:
        yield
    except BadInputError as error:
        told = BadInputError(f"{place}: {error}")
        told.add_note(f"that picture is {path}")
        raise told from error


@dataclass(frozen=True)
class UserPictures:
    """The pictures of a file, a folder or JSON lines, which samples take in turn."""

    path: Path
    files: tuple[PictureFile, ...]
    #: The texts of JSON lines, one a picture, each with the picture's place; empty: texts are drawn.
    texts: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that name these very pixels."""
        return hashlib.sha256(json.dumps([one.sha256 for one in self.files]).encode()).hexdigest()[:8]


def read_pictures(path: Path) -> UserPictures:
    """Read the user's pictures: a picture, a folder of them, or JSON lines with ``prompt`` and ``image`` each.

    Every picture is decoded once here, so that a bad one is known before anything is exported.

    Raises:
        BadInputError: something cannot be read, there is none or too many; with file and line.
        CannotRunError: Pillow is missing.
    """
    texts: tuple[str, ...] = ()
    if path.is_dir():
        found = sorted(one for one in path.iterdir() if one.suffix.lower() in _SUFFIXES)
        # Where there is one, its place says nothing that the folder does not.
        count = f" of {len(found)} by name" if len(found) > 1 else ""
        places = [(f"{path}: picture {number}{count}", one) for number, one in enumerate(found, 1)]
    elif is_json_lines(path):
        rows = list(_rows(path))
        places = [(f"{path}:{number}: image", image) for number, image, _ in rows]
        texts = tuple(row[2] for row in rows)
    else:
        places = [("--image", path)]
    if not places:
        raise BadInputError(f"{path}: no pictures in it ({', '.join(sorted(_SUFFIXES))} are read)")
    if len(places) > MAX_FILES:
        raise BadInputError(f"{path}: {len(places):,} pictures; at most {MAX_FILES:,} are taken")
    return UserPictures(path, tuple(PictureFile.of(one, place) for place, one in places), texts)


def _digest(pixels: Picture) -> str:
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _rows(path: Path) -> Iterator[tuple[int, Path, str]]:
    """Yield of each JSON line its number, the picture (relative to the file) and the text with its place."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInputError(f"{path}:{number}: not a JSON line: {error}") from error
        row = row if isinstance(row, dict) else {}
        text = next((row[key] for key in PROMPT_KEYS if isinstance(row.get(key), str)), "")
        name = row.get("image")
        if not isinstance(name, str) or not name or not text.strip() or "\0" in name:
            raise BadInputError(f'{path}:{number}: an object with "prompt" and "image" (a path) is expected')
        if text.count(PLACE) != 1:
            raise BadInputError(
                f"{path}:{number}: prompt: the text says {text.count(PLACE)} times where its picture goes; "
                f"write {PLACE} there, once"
            )
        yield number, path.parent / name, text


def text_with_place(tokenizer: Any, text: str, image_token_id: int) -> list[int]:
    """Return the ids of a text with one image token at the picture's place.

    Raises:
        BadInputError: the checkpoint's tokenizer does not know its image token.
    """
    own = tokenizer.id_to_token(image_token_id)
    ids = list(tokenizer.encode(text.replace(PLACE, own)).ids) if own else []
    if ids.count(image_token_id) != 1:
        raise BadInputError(f"the tokenizer does not know the model's image token ({image_token_id})")
    return ids


class Processor:
    """Makes of pictures what a checkpoint's vision network reads."""

    def __init__(
        self,
        facts: VisionFacts,
        make: MakePixels,
        settings: str,
    ) -> None:
        """Take the function that turns pictures into arrays by name, and what is to be said of it in records."""
        self._facts, self._make = facts, make
        #: What it does, in one line: for records.
        self.settings = settings

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        folder: Path | None = None,
        own: Callable[[Path], tuple[MakePixels, str]] = own_processor,
    ) -> Processor:
        """Return the processor in the folder (or the checkpoint's own); without one, pictures become a square.

        ``own`` reads the folder's processor.

        Raises:
            BadInputError: the checkpoint takes no pictures, or its processor is damaged.
            CannotRunError: a library is missing.
        """
        facts = checkpoint.vision
        if facts is None:
            raise BadInputError(f"{checkpoint.name} takes no pictures")
        folder = folder or checkpoint.path
        if folder is not None and has_own_processor(folder):
            return cls(facts, *own(folder))
        size = facts.image_size
        # Now, not in a sample: the first import takes a second.
        _pillow()
        settings = f"resized to {size}x{size} (bicubic), CLIP's mean and standard deviation"
        return cls(facts, lambda pictures: {"pixel_values": _resized(pictures, size)}, settings)

    @classmethod
    def of_engine(cls, facts: VisionFacts) -> Processor:
        """Return what leaves pictures to an engine that prepares them itself."""
        return cls(facts, lambda pictures: {str(place): one for place, one in enumerate(pictures)}, ENGINES_OWN)

    def __call__(self, pictures: Sequence[Picture]) -> Pixels:
        """Return the pixel tensors of pictures by name, tiles first: ``pixel_values`` ``[tiles, 3, height, width]``."""
        return self._make(pictures)

    def prompt_of(self, pixels: Pixels) -> NDArray[np.int64]:
        """Return the tokens that stand in a prompt for the pictures: image tokens, and words around them.

        Raises:
            BadInputError: a picture was cut into more tiles than the checkpoint has words for.
        """
        if self.settings == ENGINES_OWN:
            return np.full(len(pixels) * self._facts.tokens_per_tile, self._facts.image_token_id, np.int64)
        return np.array(self._facts.prompt_of(pixels), np.int64)


def pixels_of(checkpoint: Checkpoint, folder: Path | None = None) -> Callable[[Sequence[GoldenPicture]], Pixels]:
    """Return what makes pixel tensors of the pictures of a golden prompt; raises as :meth:`Processor.of`."""
    processor = Processor.of(checkpoint, folder)
    return lambda golden: processor([drawn(one.seed, one.width, one.height) for one in golden])


def _resized(pictures: Sequence[Picture], size: int) -> NDArray[np.float32]:
    """Return ``[pictures, 3, size, size]``."""
    image = _pillow()
    squares = [image.fromarray(one).resize((size, size), image.Resampling.BICUBIC) for one in pictures]
    stacked = np.stack([np.asarray(one, dtype=np.float32) for one in squares]) / np.float32(255)
    normal = (stacked - np.array(CLIP_MEAN, np.float32)) / np.array(CLIP_STD, np.float32)
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))
