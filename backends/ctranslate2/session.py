"""A session of CTranslate2: its own loop, which tells each token to a callback as soon as it is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import Placement, SessionOptions, Tokens
from slmbench.errors import BadInputError, CannotRunError, last_error_line
from slmbench.models.artifact import Artifact
from slmbench.models.ctranslate2_vocabulary import read_vocabulary, unfed_ids
from slmbench.terms import ComputePrecision, Device

from ..common.cpu_device import default_threads
from ..common.openmp import OpenMp
from ..common.reserved import Reserved

ATTENTION = "MultiHeadAttention"
#: CTranslate2's names of what it computes in. All but its 8-bit products is fp32.
COMPUTE_TYPES: dict[ComputePrecision, str] = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "int8_float32",
}
_ENGINE_NAMES = {"cpu": "cpu", "gpu": "cuda"}


class Ctranslate2Session:
    """One model. Not thread-safe."""

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions) -> None:
        """Let CTranslate2 load the model.

        Raises:
            BadInputError: its vocabulary is damaged or does not fit.
            CannotRunError: it refuses the model, the device or the compute type.
        """
        import ctranslate2

        checkpoint = artifact.manifest.checkpoint
        self._device, self._family, self._reserved = device, checkpoint.family, Reserved(checkpoint)
        self._geometry = checkpoint.geometry
        self._threads = options.threads or default_threads()
        folder = artifact.graph("model").parent
        self._texts = read_vocabulary(folder, checkpoint.geometry.vocab_size)
        self._unfed = frozenset(unfed_ids(self._texts, checkpoint.geometry.vocab_size))
        kind = ctranslate2.Translator if self._family == "encoder-decoder" else ctranslate2.Generator
        began = perf_counter_ns()
        try:
            self._engine: Any = kind(
                str(folder),
                device=_ENGINE_NAMES[device],
                compute_type=COMPUTE_TYPES.get(options.compute_precision, options.compute_precision),
                inter_threads=1,
                intra_threads=self._threads,
            )
        except (RuntimeError, ValueError) as error:
            raise CannotRunError(f"{folder}: ctranslate2 does not load it: {last_error_line(error)}") from error
        self._load_ns = perf_counter_ns() - began
        self._openmp = OpenMp("libctranslate2")

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Remember the shape: the engine allocates by itself, while warm-up runs.

        Raises:
            BadInputError: more tokens than the model has positions for, or than its sliding windows hold.
        """
        geometry = self._geometry
        self._reserved.check_positions(input_tokens, geometry.max_input_tokens)
        if self._family == "decoder-only":
            self._reserved.check_positions(input_tokens + output_tokens, geometry.max_total_tokens)
            self._check_windows(input_tokens + output_tokens, geometry.windows)
        else:
            self._check_windows(input_tokens, geometry.encoder_windows)
            self._check_windows(output_tokens, geometry.windows)
        self._reserved.take(batch, input_tokens, output_tokens)

    def _check_windows(self, tokens: int, windows: tuple[int | None, ...]) -> None:
        """Compare a sequence with the sliding windows: beyond one ctranslate2 gave other tokens than the reference."""
        smallest = min((one for one in windows if one is not None), default=tokens)
        if tokens > smallest:
            raise BadInputError(
                f"ctranslate2 is right within the model's sliding window of {smallest} tokens only; "
                f"this workload has {tokens}"
            )

    def generate(self, input_ids: Tokens, output_tokens: int) -> tuple[Tokens, list[int]]:
        """Generate greedily from prompts ``[batch, input]``; a stamp is when the last row had its token.

        Raises:
            BadInputError: the shape is beyond what is reserved, or a token cannot be fed.
            CannotRunError: the engine fails.
        """
        self._reserved.start(input_ids, output_tokens=output_tokens)
        prompts = self._texts_of(input_ids)
        rows: list[list[int]] = [[] for _ in prompts]
        stamps: list[int] = []

        def told(result: Any) -> bool:
            row = rows[result.batch_id]
            row.append(result.token_id)
            if len(row) > len(stamps):
                stamps.append(0)
            stamps[len(row) - 1] = perf_counter_ns()
            return False

        try:
            self._run(prompts, output_tokens, told)
        except (RuntimeError, ValueError) as error:
            raise CannotRunError(f"ctranslate2 fails: {last_error_line(error)}") from error
        given = min(map(len, rows))
        return np.array([row[:given] for row in rows], dtype=np.int64), stamps[:given]

    def _run(self, prompts: list[list[str]], output_tokens: int, told: Callable[[Any], bool]) -> None:
        """Let the engine generate that many tokens. Up to the smallest length no end token is chosen."""
        greedy = {"beam_size": 1, "return_scores": False, "callback": told, **self._ends()}
        if self._family == "encoder-decoder":
            length = {"min_decoding_length": output_tokens, "max_decoding_length": output_tokens}
            self._engine.translate_batch(prompts, max_input_length=0, **length, **greedy)
        else:
            length = {"min_length": output_tokens, "max_length": output_tokens}
            self._engine.generate_batch(prompts, include_prompt_in_result=False, **length, **greedy)

    def answer_logits(self, input_ids: Tokens, answer: Tokens) -> Iterator[NDArray[np.float32]]:
        """Give the logits ``[vocabulary]`` behind each token of an answer ``[1, n]`` to a prompt ``[1, m]``.

        Those of ends of sequence are -inf. The engine reads a text in one piece and gives all its logits together.

        Raises:
            BadInputError: the shape is beyond what is reserved, or a token cannot be fed.
            CannotRunError: the engine fails.
        """
        (prompt,), fed = self._texts_of(input_ids), self._texts_of(answer[:, :-1])
        count = answer.shape[1]
        try:
            if self._family == "decoder-only":
                self._reserved.start(np.concatenate([input_ids, answer[:, :-1]], axis=1))
                found = self._engine.forward_batch([prompt + fed[0]])
                return self._without_ends(np.asarray(found)[0, input_ids.shape[1] - 1 :])
            self._reserved.start(input_ids, output_tokens=count)
            length = {"min_decoding_length": count, "max_decoding_length": count, "max_input_length": 0}
            told = self._engine.translate_batch(
                [prompt], target_prefix=fed, beam_size=1, return_logits_vocab=True, **length, **self._ends()
            )
            return self._without_ends(np.asarray(row) for row in told[0].logits[0])
        except (RuntimeError, ValueError) as error:
            raise CannotRunError(f"ctranslate2 fails: {last_error_line(error)}") from error

    def _texts_of(self, ids: Tokens) -> list[list[str]]:
        """Return the texts of tokens ``[rows, n]``.

        Raises:
            BadInputError: the engine would read one of them as another.
        """
        rows = ids.tolist()
        for token in self._unfed.intersection(chain.from_iterable(rows)):
            first = self._texts.index(self._texts[token])
            raise BadInputError(f"ctranslate2 cannot be fed token {token}: its text is also that of token {first}")
        return [[self._texts[token] for token in row] for row in rows]

    def _without_ends(self, rows: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        for given in rows:
            row = np.array(given, np.float32)
            row[self._reserved.end_tokens] = -np.inf
            yield row

    def _ends(self) -> dict[str, Any]:
        ends = self._reserved.end_tokens
        return {"end_token": ends} if ends else {}

    def placement(self) -> Placement:
        """Return the device that the loaded model names; CTranslate2 has no list of nodes."""
        names = {engine: ours for ours, engine in _ENGINE_NAMES.items()}
        return Placement(self._device, names.get(self._engine.device, self._engine.device))

    def compute_precision(self) -> str:
        """Return what the engine computes in, as the loaded model names it."""
        names = {engine: ours for ours, engine in COMPUTE_TYPES.items()}
        return str(names.get(self._engine.compute_type, self._engine.compute_type))

    def threads(self) -> int:
        """Return how many threads OpenMP really gives the engine; 0 on a GPU."""
        return self._openmp.team_size(self._threads) if self._device == "cpu" else 0

    def attention_path(self) -> str:
        """Return the one path that CTranslate2 has on CPUs, and by default on GPUs."""
        return ATTENTION

    def load_phases_ns(self) -> dict[str, int]:
        """Return "load": reading the model and bringing its weights into the compute type."""
        return {"load": self._load_ns}

    def close(self) -> None:
        """Free the model."""
        self._engine = None
