"""What samples read instead of drawn prompts: the user's texts, the user's pictures, or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from slmbench.errors import BadInputError
from slmbench.measure.pictures import UserPictures, read_pictures, text_with_place
from slmbench.measure.text_prompts import Prompts, check_known, load_tokenizer, read_prompts, token_ids
from slmbench.models.checkpoint import Checkpoint
from slmbench.plan.sent_files import arrived

if TYPE_CHECKING:
    from slmbench.plan.request import RunRequest


@dataclass(frozen=True)
class AskedPrompts:
    """The user's texts and pictures. Samples take them in turn; what is None is drawn."""

    texts: Prompts | None = None
    pictures: UserPictures | None = None
    #: The longest text's length in each checkpoint's own tokens, by the name it is asked for.
    longest: Mapping[str, int] = field(default_factory=dict)


def asked_prompts(
    request: RunRequest, checkpoints: Mapping[str, Checkpoint], reference: Checkpoint | None = None
) -> AskedPrompts:
    """Return the texts and pictures that the request names, read and checked.

    A file of the user without a tokenizer.json next to it has that of its ``reference``.

    Raises:
        BadInputError: one cannot be read, or a checkpoint cannot read such texts.
        CannotRunError: Pillow is missing.
    """
    pictures = _pictures(request)
    if pictures is not None and pictures.texts:
        texts = Prompts(pictures.path, pictures.texts)
    elif request.prompts is not None:
        sent = next((arrived(one) for one in request.carried if one.checkpoint is None), None)
        texts = read_prompts(sent or request.prompts)
    else:
        return AskedPrompts(pictures=pictures)
    option = "--prompts" if pictures is None else "--image"
    texts = replace(texts, tokenizers=tokenizer_folders(request, checkpoints, option, reference))
    return AskedPrompts(texts, pictures, _longest(texts, checkpoints, with_place=pictures is not None))


def _pictures(request: RunRequest) -> UserPictures | None:
    if request.image is None:
        return None
    if request.images or request.image_size:
        raise BadInputError("--image reads your pictures, --images and --image-size draw some: give one or the other")
    if request.prompts is not None:
        raise BadInputError(
            "--image and --prompts cannot be used together: texts with pictures come in JSON lines (--image FILE.jsonl)"
        )
    return read_pictures(request.image)


def tokenizer_folders(
    request: RunRequest,
    checkpoints: Mapping[str, Checkpoint],
    option: str = "--prompts",
    reference: Checkpoint | None = None,
) -> dict[Checkpoint, Path]:
    """Return where each checkpoint's tokenizer.json is: the one that was sent, its own, or that of a file's reference.

    Raises:
        BadInputError: a checkpoint has none, or what was sent is gone; ``option`` is named.
    """
    sent = {one.checkpoint: arrived(one).parent for one in request.carried}
    folders = {}
    for name, checkpoint in checkpoints.items():
        folder = sent.get(checkpoint.digest) or checkpoint.path
        if checkpoint.given and folder and not (folder / "tokenizer.json").is_file() and reference:
            folder = reference.path or folder
        if folder is None:
            what = "--prompts" if option == "--prompts" else "the texts of --image"
            raise BadInputError(f"{name}: a catalog model has no tokenizer, so {what} cannot be read; use a folder")
        folders[checkpoint] = folder
    return folders


def _longest(texts: Prompts, checkpoints: Mapping[str, Checkpoint], *, with_place: bool) -> dict[str, int]:
    """Return the longest prompt's length in each checkpoint's own tokens; the picture's place is none of them."""
    lengths = {}
    for name, checkpoint in checkpoints.items():
        tokenizer = load_tokenizer(texts.tokenizers[checkpoint])
        if with_place and checkpoint.vision is not None:
            token = checkpoint.vision.image_token_id
            try:
                placed = [text_with_place(tokenizer, text, token) for text in texts.texts]
            except BadInputError as error:
                raise BadInputError(f"{name}: {error}; give pictures without texts") from error
            read = [[one for one in ids if one != token] for ids in placed]
        else:
            read = [token_ids(tokenizer, text) for text in texts.texts]
        for number, ids in enumerate(read, 1):
            check_known(checkpoint, ids, f" (prompt {number})")
        lengths[name] = max(map(len, read))
    return lengths
