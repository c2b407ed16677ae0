"""What a request asks for and no machine could do: names, pairs, threads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from slmbench.case import Case
from slmbench.errors import BadInputError
from slmbench.models.catalog import PAIR_TOLERANCE
from slmbench.models.checkpoint import Checkpoint
from slmbench.plan.suite import Suite
from slmbench.system.container import allowed_cpus, container_limits
from slmbench.terms import pairing_of


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
    """Raise BadInputError where a pair is not of two families, or not alike in what its pairing says."""
    for index, pair in enumerate(suite.pairs):
        first, second = pair[:2]
        where, sides = suite.where("pairs", index), (checkpoints[first], checkpoints[second])
        families = (sides[0].family, sides[1].family)
        if families != ("encoder-decoder", "decoder-only"):
            raise BadInputError(
                f"{where}pair {first},{second}: an encoder-decoder and then a decoder-only checkpoint are expected, "
                f"these are {families[0]} and {families[1]}"
            )
        pairing = pairing_of(pair)
        unlike = {"total": _unlike_in_total, "decoder": _unlike_decoders}
        reason = unlike[pairing](*sides) if pairing != "quality" else _without_quality(suite, sides)
        if reason:
            raise BadInputError(
                f"{where}pair {first},{second}: {reason} "
                "(list them under `checkpoints` to measure both without a verdict)"
            )


def _unlike_in_total(first: Checkpoint, second: Checkpoint) -> str | None:
    apart = abs(first.parameter_count / second.parameter_count - 1)
    if apart <= PAIR_TOLERANCE:
        return None
    counts = " and ".join(f"{side.parameter_count / 1e6:.1f}M" for side in (first, second))
    hint = "; their decoders are equal: add the pairing 'decoder'" if _unlike_decoders(first, second) is None else ""
    return f"{counts} parameters are {apart:.0%} apart; a pair is within {PAIR_TOLERANCE:.0%}{hint}"


#: What two equal decoders have in common, and what it is called.
_DECODER_SIZES = {
    "decoder_layers": "layers", "width": "width", "ffn_width": "feed-forward width",
    "ffn_matrices": "feed-forward matrices", "heads": "heads",
    "kv_heads": "K/V heads", "head_dim": "head size", "vocab_size": "vocabulary",
}  # fmt: skip


def _unlike_decoders(first: Checkpoint, second: Checkpoint) -> str | None:
    sizes = [
        (getattr(first.geometry, name), getattr(second.geometry, name), word) for name, word in _DECODER_SIZES.items()
    ]
    unlike = [f"{word} {mine} and {its}" for mine, its, word in sizes if mine != its]
    return f"the pairing 'decoder' wants equal decoders, these differ: {', '.join(unlike)}" if unlike else None


def _without_quality(suite: Suite, sides: tuple[Checkpoint, Checkpoint]) -> str | None:
    drawn = [side.name for side in sides if side.source == "catalog"]
    if drawn:
        return f"the pairing 'quality' is of trained models, and the weights of {' and '.join(drawn)} are random"
    if suite.tasks is None:
        return "the pairing 'quality' is of models whose answers score alike: add tasks (--tasks FILE)"
    return None


def check_text_alone(asked: Iterable[str], cases: Iterable[Case]) -> None:
    """Raise BadInputError where quality or tasks, the options ``asked``, go with pictures: both are of text alone."""
    names = list(asked)
    if names and any(case.workload.images for case in cases):
        raise BadInputError(f"{names[0]} is of text alone; measure it in a run without pictures")


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
