"""Tokens that a checkpoint's own processor puts around the image tokens of a prompt, by its tokenizer or its config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from slmbench.errors import BadInputError

_Token = Annotated[int, Field(ge=0, le=2**24)]
_Tokens = tuple[_Token, ...]
#: SmolVLM's and Idefics 3's words (transformers: processing_idefics3.py).
_FAKE, _WHOLE, _CELL = "<fake_token_around_image>", "<global-img>", "<row_{}_col_{}>"
_MOST_ROWS = 16


class PictureWords(BaseModel):
    """What stands before and after the image tokens of a picture, and of each of its tiles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: _Tokens
    after: _Tokens
    #: By row and column: what names a tile, after the first of ``before``.
    cells: tuple[_Tokens, ...] = ()
    #: Between rows of tiles, and between the last of them and the picture as a whole.
    line: _Tokens = ()
    last: _Tokens = ()

    def around(self, image: list[int], rows: int, columns: int) -> list[int]:
        """Return the tokens of a picture that was cut into rows and columns of tiles (0: not cut).

        ``image`` are the image tokens of one tile; of a picture that was cut, the last tile is the picture as a whole.

        Raises:
            BadInputError: the tokenizer has no words for so many tiles.
        """
        if rows > len(self.cells) or (rows and columns > len(self.cells[0])):
            raise BadInputError(f"its tokenizer has no token for a picture of {rows} x {columns} tiles")
        found: list[int] = []
        for row in range(rows):
            found += self.line if row else ()
            for column in range(columns):
                found += [self.before[0], self.cells[row][column], *image]
        return [*found, *(self.last if rows else ()), *self.before, *image, *self.after]


def words_of_tiles(tokenizer_file: Path, image_token_id: int) -> PictureWords | None:
    """Return the words of a tokenizer of SmolVLM's kind; None where it has none, or is not there."""
    try:
        added = json.loads(tokenizer_file.read_bytes())["added_tokens"]
        ids: dict[str, int] = {one["content"]: int(one["id"]) for one in added}
        from tokenizers import Tokenizer

        tokenizer: Any = Tokenizer.from_file(str(tokenizer_file))
    except Exception:  # not there, damaged, or of another library: then nothing is said of words
        return None
    image = next((word for word, one in ids.items() if one == image_token_id), None)
    side = range(1, _MOST_ROWS + 1)
    rows = next((row - 1 for row in side if _CELL.format(row, 1) not in ids), _MOST_ROWS)
    columns = next((column - 1 for column in side if _CELL.format(1, column) not in ids), _MOST_ROWS)
    if image is None or not rows or _FAKE not in ids or _WHOLE not in ids:
        return None
    cells = [[ids.get(_CELL.format(row + 1, column + 1)) for column in range(columns)] for row in range(rows)]
    if any(one is None for row in cells for one in row):
        return None
    cell = _FAKE + _CELL.format(1, 1) + image
    read = tokenizer.encode(f"{cell}\n{cell}\n\n{_FAKE}{_WHOLE}{image}{_FAKE}", add_special_tokens=False).ids
    ends = [place for place, one in enumerate(read) if one == image_token_id]
    begins = [place for place, one in enumerate(read) if one == ids[_FAKE]]
    return PictureWords(
        before=(ids[_FAKE], ids[_WHOLE]),
        after=(ids[_FAKE],),
        cells=tuple(tuple(one for one in row if one is not None) for row in cells),
        line=tuple(read[ends[0] + 1 : begins[1]]),
        last=tuple(read[ends[1] + 1 : begins[2]]),
    )
