"""The reference's predictions, from torch in fp32, in a process of its own.

``python -m slmbench.evaluation.torch_reference CHECKPOINT WINDOWS.json FOLDER``: makes the folder, whole or not at all,
and prints after each window how many are read.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slmbench.errors import ERROR_PREFIX, CannotRunError, SlmbenchError, one_line
from slmbench.evaluation.stored_reference import (
    META_NAME,
    ROWS_NAME,
    JudgedWindow,
    ReferenceMeta,
    log_probabilities,
    remove_abandoned,
    row_type,
    store_row,
    unfinished_folder,
)
from slmbench.evaluation.text import ANSWER_TOKENS, FREE_TOKENS, WINDOWS, Window
from slmbench.export.golden_record import reference_versions
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.models.network import Reader, load_folder
from slmbench.system.files import write_whole
from slmbench.system.telemetry import output_is_ours


def make_reference(
    checkpoint: Checkpoint, windows: Sequence[Window], place: Path, tell: Callable[[int], None] | None = None
) -> None:
    """Write what torch predicts in these windows to the folder ``place``; ``tell`` gets the number read so far.

    Raises:
        CannotRunError: torch does not load the checkpoint, or the disk has no room.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(place.parent)
    ends = tuple(one for one in checkpoint.eos_token_ids if one < checkpoint.geometry.vocab_size)
    kind = row_type(checkpoint.geometry.vocab_size)
    most = sum(ANSWER_TOKENS if one.target is None else len(one.target) for one in windows)
    free = shutil.disk_usage(place.parent).free
    if most * kind.itemsize > free:
        raise CannotRunError(
            f"the reference of {checkpoint.name} takes {most * kind.itemsize / 1e9:.1f} GB, {place.parent} has "
            f"{free / 1e9:.1f} GB free; `slmbench cache clean --references` frees some"
        )
    with unfinished_folder(place.parent) as unfinished:
        judged = _write_rows(_TorchReference(checkpoint, ends), windows, unfinished / ROWS_NAME, kind, tell)
        vocabulary = checkpoint.geometry.vocab_size
        meta = ReferenceMeta(vocabulary=vocabulary, ends=ends, windows=judged, versions=reference_versions())
        write_whole(unfinished / META_NAME, meta.model_dump_json())
        try:
            unfinished.rename(place)
        except OSError:
            # Another process was faster, with the same content.
            if not (place / META_NAME).exists():
                raise


def _write_rows(
    reference: _TorchReference,
    windows: Sequence[Window],
    path: Path,
    kind: np.dtype[Any],
    tell: Callable[[int], None] | None,
) -> tuple[JudgedWindow, ...]:
    judged: list[JudgedWindow] = []
    row = np.zeros(1, kind)
    count = 0
    with path.open("wb") as file:
        for window in windows:
            target, logits = reference.judge(window)
            for token, one in zip(target, logits, strict=True):
                store_row(row[0], one, token, reference.ends)
                file.write(row.tobytes())
            free = target if window.target is None else reference.free(window)
            judged.append(JudgedWindow(target=tuple(target), free=tuple(free[:FREE_TOKENS]), first_row=count))
            count += len(target)
            if tell:
                tell(len(judged))
    return tuple(judged)


class _TorchReference:
    """The checkpoint's network in fp32."""

    def __init__(self, checkpoint: Checkpoint, ends: Sequence[int]) -> None:
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        torch.set_float32_matmul_precision("highest")
        self.ends = ends
        self._torch = torch
        self._encoder_decoder = checkpoint.family == "encoder-decoder"
        self._start = checkpoint.decoder_start_token_id or 0
        if checkpoint.path is None:
            raise CannotRunError(f"{checkpoint.name}: is not on this machine")
        try:
            self._model, lacking = load_folder(
                checkpoint.path, checkpoint.family, dtype=torch.float32, trust_remote_code=checkpoint.trust_remote_code
            )
        except Exception as error:  # transformers raises many kinds for a folder that it cannot load
            raise CannotRunError(
                f"{checkpoint.name}: transformers cannot load it: {one_line(str(error))[:200]}"
            ) from error
        if lacking:
            raise CannotRunError(f"{checkpoint.name}: the weights lack {len(lacking)} parameters, as {min(lacking)}")

    def judge(self, window: Window) -> tuple[list[int], Any]:
        """Return the judged tokens of a window and the logits ``[n, vocabulary]`` at their places."""
        with self._torch.inference_mode():
            if window.target is None:
                return self._own_answer(window)
            target = list(window.target)
            if self._encoder_decoder:
                fed = self._ids([self._start, *target[:-1]])
                read = self._model(input_ids=self._ids(window.given), decoder_input_ids=fed)
                return target, read.logits[0].float().numpy()
            read = self._model(input_ids=self._ids([*window.given, *target]))
            first = len(window.given) - 1
            return target, read.logits[0, first : first + len(target)].float().numpy()

    def free(self, window: Window) -> list[int]:
        """Return greedy tokens: after the window, or the answer to what is given; never an end."""
        with self._torch.inference_mode():
            reader, fed = self._opened(window, whole=window.continues)
            found: list[int] = []
            for _ in range(FREE_TOKENS):
                found.append(int(log_probabilities(reader.read(fed)[0, -1].float().numpy(), self.ends).argmax()))
                fed = self._ids(found[-1:])
            return found

    def _own_answer(self, window: Window) -> tuple[list[int], list[Any]]:
        """Return the greedy answer up to its end, at least one token, with the logits of each."""
        reader, fed = self._opened(window, whole=False)
        tokens: list[int] = []
        rows: list[Any] = []
        while len(tokens) < ANSWER_TOKENS:
            logits = reader.read(fed)[0, -1].float().numpy()
            if tokens and int(logits.argmax()) in self.ends:
                break
            tokens.append(int(log_probabilities(logits, self.ends).argmax()))
            rows.append(logits)
            fed = self._ids(tokens[-1:])
        return tokens, rows

    def _opened(self, window: Window, *, whole: bool) -> tuple[Reader, Any]:
        """Return a reader for a window, and what it is to read first."""
        if not self._encoder_decoder:
            return Reader(self._model), self._ids([*window.given, *((window.target or ()) if whole else ())])
        prompt = self._ids(window.given)
        mask = self._torch.ones_like(prompt)
        states = self._model.get_encoder()(input_ids=prompt, attention_mask=mask)
        return Reader(self._model, encoder_outputs=states, attention_mask=mask), self._ids([self._start])

    def _ids(self, tokens: Sequence[int]) -> Any:
        return self._torch.tensor([list(tokens)], dtype=self._torch.long)


def main() -> int:
    """Make the reference that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("windows", type=Path)
    parser.add_argument("place", type=Path)
    asked_of_resolve = ("trust_remote_code", "convert_pickles", "dequantize")
    for name in asked_of_resolve:
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true")
    asked = parser.parse_args()
    try:
        with os.fdopen(os.dup(1), "w", encoding="ascii") as told, output_is_ours():
            checkpoint = resolve(asked.checkpoint, **{name: getattr(asked, name) for name in asked_of_resolve})
            windows = WINDOWS.validate_json(asked.windows.read_bytes())
            make_reference(checkpoint, windows, asked.place, lambda done: print(done, file=told, flush=True))
    except SlmbenchError as error:
        sys.stderr.write(f"{ERROR_PREFIX}{one_line(str(error))}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
