"""What a session may do beyond the contract, each as a protocol of its own. Plugins import them from the contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]
#: Pictures as a vision graph takes them, by the names of its inputs: {"pixel_values": [n, 3, H, W], ...}.
Pixels = Mapping[str, NDArray[Any]]
#: What was asked of a setting that is the engine's own default.
UNASKED = "default"
#: The picture processor of a session that prepares pictures itself, in records.
ENGINES_OWN = "the engine's own, within the time to the first token"


@runtime_checkable
class Extends(Protocol):
    """What a decoder-only session may also have: a further turn on the K/V that it holds ("turns")."""

    def extend(self, input_ids: Tokens) -> Tokens:
        """Read ``[batch, n]`` behind everything read and fed so far; return the first token of each answer.

        The token that was given last has not been fed: it comes first in ``input_ids``.

        Raises:
            BadInputError: the turn exceeds what is reserved, or the prompts were padded or shared.
            CannotRunError: the engine does not continue such a batch, or fails.
        """


@runtime_checkable
class Draws(Protocol):
    """What a session may also have: answers that are drawn instead of the best ("random")."""

    def draw(self, seed: int | None) -> None:
        """From the next start on draw each token from softmax(logits), with this seed; None: the best token."""


@runtime_checkable
class TakesPictures(Protocol):
    """What a session may also have: pictures before the text ("pictures"), over an artifact that was made for them."""

    def take_pictures(self, pixels: Pixels) -> None:
        """Hold the pictures' pixel tensors; nothing is computed yet.

        The next ``start`` turns them into features (phase "vision"), which stand where its prompt has the image token.
        Later starts use the same features until others are taken. An empty mapping: no pictures.

        Raises:
            BadInputError: the artifact was made for text alone, or the tensors are not the vision graph's inputs.
        """


@runtime_checkable
class TakesWholePictures(TakesPictures, Protocol):
    """Pictures for an engine that prepares them itself: ``take_pictures`` gets them as bytes ``[H, W, 3]``, RGB.

    Their names do not matter, their order does. What preparing takes is then part of the first token's time.
    """

    takes_whole_pictures: bool


@runtime_checkable
class TellsPhases(Protocol):
    """What a session with a loop of its engine's own may also have: parts of the last first token's time."""

    def phases_ns(self) -> dict[str, int]:
        """Return them in ns, as :meth:`Session.phases_ns` does."""


@runtime_checkable
class Rereads(Protocol):
    """What an encoder-decoder session may also have: steps without K/V of the answer ("uncached")."""

    def reread(self, tokens: Tokens) -> Tokens:
        """Read the start token and the answer so far ``[batch, n]`` again; return the next token of each row.

        Raises:
            BadInputError: a token beyond what is reserved.
        """


@runtime_checkable
class TellsSettings(Protocol):
    """What a session may also have: what else it was opened with, and what the engine made of that."""

    def settings(self) -> Mapping[str, tuple[str, str]]:
        """Return by name what was asked and what is in effect, read back. A case where the two differ fails.

        :data:`UNASKED` where nothing was asked: what is in effect is then recorded, whatever it is.
        """


@runtime_checkable
class TellsMargins(Protocol):
    """What a session may also have: how sure it was of the tokens that it gave last."""

    def margins(self) -> NDArray[np.float64]:
        """Return for each row ``[B]`` the best logit minus the second, in standard deviations of the row's logits.

        Tokens that are suppressed do not count. It is called after ``start`` or ``step``, before the next one.
        """


@runtime_checkable
class GivesLogits(Protocol):
    """What a session may also have: the logits behind the tokens that it gave last. Quality is measured with them."""

    def logits(self) -> NDArray[np.float32]:
        """Return the logits ``[B, vocabulary]`` after the last ``start`` or ``step``; valid until the next one.

        Tokens that are suppressed may be -inf.
        """


@runtime_checkable
class GivesChunkLogits(Protocol):
    """What a decoder-only session may also have: the logits of every position of a text, read in a few large pieces."""

    def chunk_logits(self, input_ids: Tokens) -> Iterable[NDArray[np.float32]]:
        """Give the logits ``[vocabulary]`` of each position of a text ``[1, n]``, one after the other.

        A row is valid until the next one: with a large vocabulary, the rows of a text are gigabytes. The text is
        within what is reserved; the session must be started again afterwards.
        """


@runtime_checkable
class GivesAnswerLogits(Protocol):
    """What an engine's own loop may also have: the logits behind each token of an answer that it is given."""

    def answer_logits(self, input_ids: Tokens, answer: Tokens) -> Iterable[NDArray[np.float32]]:
        """Give the logits ``[vocabulary]`` behind each token of an answer ``[1, n]`` to a prompt ``[1, m]``.

        Those of tokens that are suppressed are -inf. A row is valid until the next one.
        """


@runtime_checkable
class FreesMemory(Protocol):
    """What a session may also have: memory that it can do without once nothing is timed any more."""

    def free_memory(self, input_tokens: int) -> None:
        """Give back what prompts of up to ``input_tokens`` tokens and steps do not need, whatever that costs in time.

        Tokens and logits stay the same, to rounding. Longer prompts can be reserved again.
        """
