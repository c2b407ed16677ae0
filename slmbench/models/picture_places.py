"""Features of pictures at the places that a prompt keeps for them: what graphs and torch sessions do alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slmbench.models.vision_facts import GRIDS, VisionFacts

if TYPE_CHECKING:
    import torch


@contextmanager
def features_in_place(network: Any, facts: VisionFacts, features: torch.Tensor) -> Iterator[None]:
    """Have a text network read row i of ``features`` at the i-th image token of each row of ids.

    ``features`` is ``[rows, width]``, or ``[rows, (1 + n) * width]`` where its first n layers add some as well. What
    else the embedding does (scales, dropouts) is for words alone, as it is in transformers.
    """
    import torch

    width = int(features.shape[-1]) // (1 + facts.added_layers)
    seen: dict[str, Any] = {}

    def place(_: Any, given: tuple[Any, ...], embedded: Any) -> Any:
        here = given[0] == facts.image_token_id
        seen["row"] = (here.to(torch.int64).cumsum(1) - 1).clamp(min=0)
        seen["here"] = here.unsqueeze(-1)
        return torch.where(seen["here"], rows(0), embedded)

    def rows(index: int) -> Any:
        part = features[:, index * width : (index + 1) * width] if facts.added_layers else features
        return torch.nn.functional.embedding(seen["row"], part)

    def adding(index: int) -> Any:
        return lambda _, __, states: torch.where(seen["here"], states + rows(index), states)

    hooks = [embedding_before_pictures(network).register_forward_hook(place)]
    behind = range(facts.added_layers)
    hooks += [network.model.layers[index].register_forward_hook(adding(index + 1)) for index in behind]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def pictures_in_place(
    network: Any, facts: VisionFacts, ids: torch.Tensor, features: torch.Tensor, pixels: Mapping[str, Any]
) -> Iterator[None]:
    """Have a text network read one prompt ``[1, n]`` with the features of its pictures, at their positions."""
    import torch

    with features_in_place(network, facts, features):
        if not facts.merge_size:
            yield
            return
        grids = np.asarray(pixels[GRIDS])
        table = positions_of_prompt(ids[0].numpy(), facts.image_token_id, grids, facts.merge_size)
        hook = spread_positions(network, lambda: torch.from_numpy(table))
        try:
            yield
        finally:
            hook.remove()


def spread_positions(network: Any, of_prompt: Callable[[], torch.Tensor | None]) -> Any:
    """Have a text network turn a position into those that :func:`positions_of_prompt` says; returns the hook.

    ``of_prompt`` gives ``[3, R]`` for the network's next call, or None: positions stay as they are.
    """
    import torch

    def look_up(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        table = of_prompt()
        if table is None:
            return given
        states, positions = given
        # The three are equal here: places in the sequence.
        place, last = positions[0], table.shape[1] - 1
        beyond = (place + (table.max() - last)).unsqueeze(0)
        known = table[:, place.clamp(max=last)]
        return states, torch.where((place > last).unsqueeze(0), beyond, known)

    return network.model.rotary_emb.register_forward_pre_hook(look_up)


def positions_of_prompt(ids: NDArray[np.int64], token: int, grids: NDArray[np.int64], merge: int) -> NDArray[np.int64]:
    """Return frame, row and column ``[3, R]`` of a prompt ``[n]`` up to its last image token.

    ``grids`` has frames, rows and columns of patches of each picture, of which ``merge`` x ``merge`` are a token. Words
    count on in all three; a picture counts from where it begins, and what follows is one behind its longest side
    (arXiv 2409.12191, section 2.1).
    """
    places = np.flatnonzero(ids == token)
    found = np.zeros((3, places[-1] + 1 if len(places) else 1), np.int64)
    done = position = 0
    counted = 0
    for frames, height, width in grids.tolist():
        rows, columns = height // merge, width // merge
        begin = int(places[counted])
        found[:, done:begin] = position + np.arange(begin - done)
        position += begin - done
        done, counted = begin + frames * rows * columns, counted + frames * rows * columns
        found[:, begin:done] = position + np.indices((frames, rows, columns)).reshape(3, -1)
        position += max(rows, columns)
    return found


def embedding_before_pictures(network: Any) -> Any:
    """Return the embedding that a network's prompt goes through: the encoder's, where there is one."""
    part = network.get_encoder() if network.config.is_encoder_decoder else network
    return part.get_input_embeddings()
