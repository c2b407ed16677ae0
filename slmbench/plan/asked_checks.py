"""What a request asks for and no machine could do: names, pairs, threads."""

from __future__ import annotations

import math
from collections.abc import Mapping

from slmbench.errors import BadInputError
from slmbench.models.catalog import PAIR_TOLERANCE
from slmbench.models.checkpoint import Checkpoint
from slmbench.plan.suite import Suite
from slmbench.system.container import allowed_cpus, container_limits


def check_names(checkpoints: Mapping[str, Checkpoint]) -> None:
    """Raise BadInputError where two models would have one name in tables and keys."""
    asked: dict[str, str] = {}
    for reference, checkpoint in checkpoints.items():
        other = asked.setdefault(checkpoint.name, reference)
        if other != reference:
            raise BadInputError(
                f"{other} and {reference} are both called {checkpoint.name} in tables; rename one of the two"
            )


def check_pairs(suite: Suite, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Raise BadInputError where a pair is not of two families, or not of one size."""
    for index, (first, second) in enumerate(suite.pairs):
        where, sides = suite.where("pairs", index), (checkpoints[first], checkpoints[second])
        families = (sides[0].family, sides[1].family)
        if families != ("encoder-decoder", "decoder-only"):
            raise BadInputError(
                f"{where}pair {first},{second}: an encoder-decoder and then a decoder-only checkpoint are expected, "
                f"these are {families[0]} and {families[1]}"
            )
        apart = abs(sides[0].parameter_count / sides[1].parameter_count - 1)
        if apart > PAIR_TOLERANCE:
            counts = " and ".join(f"{side.parameter_count / 1e6:.1f}M" for side in sides)
            raise BadInputError(
                f"{where}pair {first},{second}: {counts} parameters are {apart:.0%} apart; a pair is within "
                f"{PAIR_TOLERANCE:.0%} (list them under `checkpoints` to measure both without a verdict)"
            )


def check_threads(threads: int | None) -> None:
    """Raise BadInputError where more threads are asked for than this process may use."""
    usable = allowed_cpus()
    if threads and threads > usable:
        raise BadInputError(f"{threads} threads asked for, this process may use {usable} cores")
    quota = container_limits().cpu_cores
    if threads and quota is not None and threads > math.ceil(quota):
        raise BadInputError(
            f"{threads} threads asked for, this container may use {quota:g} cores' time: they would be stopped in turn"
        )


def check_reference(reference: Checkpoint, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Raise BadInputError where a reference is not another form of each artifact that the user brings."""
    brought = [one for one in checkpoints.values() if one.given]
    if not brought:
        raise BadInputError("--reference goes with a model file of yours (--model FILE); others have their own")
    if reference.given is not None:
        raise BadInputError(f"--reference {reference.name}: an artifact; the reference is a checkpoint that torch runs")
    theirs = reference.geometry
    for one in brought:
        ours = one.geometry
        for name, mine, its in (
            ("family", one.family, reference.family),
            ("number of decoder layers", ours.decoder_layers, theirs.decoder_layers),
            ("width", ours.width, theirs.width),
        ):
            if mine != its:
                raise BadInputError(f"--reference {reference.name}: its {name} is {its}, that of {one.name} is {mine}")
        if theirs.vocab_size > ours.vocab_size:
            raise BadInputError(
                f"--reference {reference.name}: it knows {theirs.vocab_size:,} tokens, {one.name} {ours.vocab_size:,}"
            )
