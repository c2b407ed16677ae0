"""Pictures before the prompts of a case: drawn or read, prepared, given to the session; outside any timed region."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slmbench.backend import LoopSession, Pixels, Session, TakesPictures, TakesWholePictures, Tokens
from slmbench.case import Workload
from slmbench.errors import CannotRunError
from slmbench.measure.pictures import Picture, PictureFile, Processor, drawn
from slmbench.measure.random_prompts import PromptStream
from slmbench.models.artifact import Artifact, GoldenPicture
from slmbench.models.picture_processor import own_processor
from slmbench.worker.picture_process import ProcessorElsewhere
from slmbench.worker.protocol import PictureProcess

#: A picture of the user: its file, the digest of its pixels, and what errors call it.
AskedPicture = tuple[Path, str, str]
#: Keeps pictures from being drawn with the numbers that prompts are drawn with.
_PIXELS = 0x706978


@dataclass(frozen=True)
class ShownPrompts:
    """Prompts whose pictures the session holds."""

    prompts: list[Tokens]
    image_tokens: int
    #: "preprocess", the time that the processor took; empty where the engine prepares pictures within its own loop.
    phases_ns: dict[str, int]


class PicturePrompts:
    """Shows pictures to one session."""

    def __init__(
        self,
        session: Session | LoopSession,
        artifact: Artifact,
        seed: int,
        first: AskedPicture | None,
        process: PictureProcess | None,
    ) -> None:
        """Take an artifact with pictures; ``first`` is the user's picture where no other is asked for.

        The checkpoint's own processor runs in ``process``; None: in this one.

        Raises:
            BadInputError: the checkpoint's processor is damaged.
            CannotRunError: the session takes no pictures, or a library is missing.
        """
        checkpoint = artifact.manifest.checkpoint
        if not isinstance(session, TakesPictures) or checkpoint.vision is None:
            raise CannotRunError("this engine's session takes no pictures")
        self._session, self._token = session, checkpoint.vision.image_token_id
        self._by_engine = isinstance(session, TakesWholePictures)
        self._elsewhere = ProcessorElsewhere(process) if process and not self._by_engine else None
        own = self._elsewhere.own_processor if self._elsewhere else own_processor
        vision, home = checkpoint.vision, artifact.processor_home
        self._processor = Processor.of_engine(vision) if self._by_engine else Processor.of(checkpoint, home, own)
        self._seed, self._first = seed & 0xFFFFFFFFFFFFFFFF, first
        self._known: dict[tuple[int, tuple[int, int] | None], int] = {}

    @property
    def settings(self) -> str:
        """Return what the processor does, in one line."""
        return self._processor.settings

    def golden(self, pictures: Sequence[GoldenPicture]) -> Pixels:
        """Return the pixel tensors of a golden prompt's pictures."""
        return self._processor([drawn(one.seed, one.width, one.height) for one in pictures])

    def most_tokens(self, work: Workload) -> int:
        """Return how many tokens the workload's pictures become, as far as it has been seen."""
        kind = (work.images, work.image_size)
        if kind not in self._known:
            pixels = self._processor(self._pictures(work, PromptStream.MEMORY, 0, 0, None))
            self._known[kind] = len(self._processor.prompt_of(pixels))
        return self._known[kind]

    def show(
        self,
        work: Workload,
        prompts: Sequence[Tokens],
        stream: PromptStream,
        group: int,
        index: int,
        asked: AskedPicture | None = None,
    ) -> ShownPrompts:
        """Prepare a sample's pictures, give them to the session, and put their tokens into the first prompt.

        They go before the text, or where a text has its image token.

        Raises:
            BadInputError: a picture of the user can no longer be read, or was changed.
        """
        pictures = self._pictures(work, stream, group, index, asked)
        begin = time.perf_counter_ns()
        pixels = self._processor(pictures)
        spent = self._elsewhere.spent_ns if self._elsewhere else time.perf_counter_ns() - begin
        tokens = self._processor.prompt_of(pixels)
        kind = (work.images, work.image_size)
        self._known[kind] = max(len(tokens), self._known.get(kind, 0))
        self._session.take_pictures(pixels)
        phases = {} if self._by_engine else {"preprocess": spent}
        return ShownPrompts([self._with_pictures(prompts[0], tokens), *prompts[1:]], len(tokens), phases)

    def _pictures(
        self, work: Workload, stream: PromptStream, group: int, index: int, asked: AskedPicture | None
    ) -> list[Picture]:
        if work.image_size is None:
            chosen = asked or self._first
            if chosen is None:
                raise CannotRunError("no picture was given")
            return [PictureFile(*chosen).read()]
        numbers = (self._seed, _PIXELS, int(stream), group, index)
        return [drawn([*numbers, place], *work.image_size) for place in range(work.images)]

    def _with_pictures(self, prompt: Tokens, tokens: Tokens) -> Tokens:
        """Return a prompt ``[1, n]`` with the tokens of its pictures at its image token, or before it."""
        places = np.flatnonzero(prompt[0] == self._token)
        before = int(places[0]) if len(places) else 0
        return np.concatenate([prompt[0, :before], tokens, prompt[0, before + len(places) :]])[None]
