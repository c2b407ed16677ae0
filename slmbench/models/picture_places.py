"""Features of pictures at the places that a prompt keeps for them: what graphs and torch sessions do alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def features_in_place(embedding: torch.nn.Module, token: int, features: torch.Tensor) -> Iterator[None]:
    """Have an embedding give row i of ``features`` [rows, width] at the i-th place of ``token`` in each row of ids.

    What the embedding does besides (scales, dropouts) is for words alone, as it is in transformers.
    """
    import torch

    def place(_: Any, given: tuple[Any, ...], embedded: Any) -> Any:
        here = given[0] == token
        row = (here.to(torch.int64).cumsum(1) - 1).clamp(min=0)
        return torch.where(here.unsqueeze(-1), torch.nn.functional.embedding(row, features), embedded)

    hook = embedding.register_forward_hook(place)
    try:
        yield
    finally:
        hook.remove()


def embedding_before_pictures(network: Any) -> Any:
    """Return the embedding that a network's prompt goes through: the encoder's, where there is one."""
    part = network.get_encoder() if network.config.is_encoder_decoder else network
    return part.get_input_embeddings()
