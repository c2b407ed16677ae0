"""What a session has reserved, and how many tokens of the answer it has given: the bookkeeping of every backend."""

from __future__ import annotations

from slmbench.backend import Checkpoint, Tokens
from slmbench.errors import BadInputError

#: Positions of a text whose logits are held at once: with a vocabulary of 256,000 they are 33 MB.
PIECE_TOKENS = 32


class Reserved:
    """The shape that ``reserve`` was called with, and the place of the current generation in it."""

    def __init__(self, checkpoint: Checkpoint, *, pictures: bool = False) -> None:
        """Take the checkpoint's name and what is never generated; after pictures that is the image token too."""
        self.name = checkpoint.name
        never = list(checkpoint.eos_token_ids)
        if pictures and checkpoint.vision is not None:
            never.append(checkpoint.vision.image_token_id)
        #: End-of-sequence ids that have a logit; some checkpoints name ids beyond their vocabulary.
        self.end_tokens = [one for one in never if one < checkpoint.geometry.vocab_size]
        self.rows = self.input_tokens = self.output_tokens = 0
        #: Tokens of the answer that were given, and the most that there is room for.
        self._given = self._most = 0

    @property
    def total(self) -> int:
        """Return the tokens of prompt and answer together."""
        return self.input_tokens + self.output_tokens

    def take(self, rows: int, input_tokens: int, output_tokens: int) -> None:
        """Keep a new shape; nothing is generated in it yet."""
        self.rows, self.input_tokens, self.output_tokens = rows, input_tokens, output_tokens
        self._given = self._most = output_tokens

    def check_positions(self, needed: int, limit: int | None) -> None:
        """Compare the tokens of one sequence with the positions that the model has.

        Raises:
            BadInputError: it has fewer.
        """
        if limit is not None and needed > limit:
            raise BadInputError(f"{self.name} has positions for {limit} tokens; this workload needs {needed}")

    def start(self, input_ids: Tokens, *, shared: bool = False, output_tokens: int | None = None) -> int:
        """Begin a generation from prompts ``[B, S]``; return how many rows answer each of them.

        ``shared``: several rows may answer one prompt. ``output_tokens``: the engine's own loop generates that many,
        and prompt and answer may share the reserved length in another way.

        Raises:
            BadInputError: the prompts exceed what is reserved.
        """
        prompts, length = input_ids.shape
        fits = length <= self.input_tokens if output_tokens is None else length + output_tokens <= self.total
        if not fits or (self.rows % prompts if shared else self.rows != prompts):
            answer = "" if output_tokens is None else f" and {output_tokens} new ones"
            raise BadInputError(
                f"{self.name}: this prompt ({prompts}x{length} tokens{answer}) exceeds what is reserved "
                f"({self.rows}x{self.input_tokens} and {self.output_tokens} new ones)"
            )
        self._given, self._most = 0, self.output_tokens
        return self.rows // int(prompts)

    def extend(self, input_ids: Tokens, length: int, *, padded: bool) -> None:
        """Begin a further turn ``[B, n]`` behind ``length`` tokens.

        Raises:
            BadInputError: it exceeds what is reserved, or the prompts were padded or answered by several rows.
        """
        rows, count = input_ids.shape
        if padded or rows != self.rows or length + count > self.total:
            raise BadInputError(
                f"{self.name}: this turn ({rows}x{count} tokens) exceeds the reserved length, or the batch is padded"
            )
        # The first token of an answer takes no place yet, each later one has fed the token before it.
        self._given, self._most = 0, min(self.output_tokens, self.total - length - count + 1)

    def token(self) -> int:
        """Count one more token of the answer; return its place, the first is 0.

        Raises:
            BadInputError: no more are reserved, or no prompt was read.
        """
        place = self._given
        if place >= self._most:
            raise BadInputError(
                f"{self.name}: a step beyond the {self._most} new tokens that are reserved, or before a start"
            )
        self._given = place + 1
        return place
