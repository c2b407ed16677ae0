"""Patterns of nodes in a traced ONNX graph: normalisations and rotary positions as transformers writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slmbench.export.onnx.builder import IR_VERSION

#: Folded at export: more than this is no norm's weight.
_MOST_FOLDED = 1 << 20
#: Positions that a table is compared over with a shorter one.
_FEW_POSITIONS = 16


def made_by(value: Any, kind: str) -> Any:
    """Return the node that makes a value if it is of that kind, else None."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == kind else None


def is_transposed(node: Any, perm: tuple[int, ...]) -> bool:
    """Tell whether a ``Transpose`` puts the axes in that order."""
    return tuple(node.attributes.get_ints("perm", ())) == perm


def uncast(value: Any) -> Any:
    """Return what a value was before casts to float32: the whole network computes in it."""
    while (cast := made_by(value, "Cast")) is not None and cast.attributes.get_int("to", 0) == 1:
        value = cast.inputs[0]
    return value


_FOLDED: dict[str, Callable[..., Any]] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


def constant(value: Any) -> NDArray[Any] | None:
    """Return what a value is on every run, or None where that hangs on an input."""
    if value.const_value is not None:
        tensor = value.const_value
        found: NDArray[Any] | None = tensor.numpy() if tensor.size <= _MOST_FOLDED else None
        return found
    node = value.producer()
    if node is None or node.op_type not in (*_FOLDED, "Cast", "Unsqueeze", "Squeeze", "Gather"):
        return None
    if node.op_type == "Gather":
        return _size_of(node)
    inputs = [constant(one) for one in node.inputs[: 2 if node.op_type in _FOLDED else 1]]
    known = [one for one in inputs if one is not None]
    if len(known) < len(inputs):
        return None
    if node.op_type not in _FOLDED:
        return known[0]
    if node.op_type == "Div" and known[0].dtype.kind == "i":
        return np.asarray(known[0] // known[1])
    return np.asarray(_FOLDED[node.op_type](*known))


def _size_of(gather: Any) -> NDArray[Any] | None:
    """Return a size of a value where that is known: ``Gather(Shape(x), axis)``."""
    shape = made_by(gather.inputs[0], "Shape")
    axis = gather.inputs[1].const_value
    if shape is None or axis is None or shape.inputs[0].shape is None:
        return None
    size = shape.inputs[0].shape[int(axis.numpy().reshape(-1)[0])]
    return np.array(size, np.int64) if isinstance(size, int) else None


def _number(value: Any) -> float | None:
    found = constant(value) if value is not None else None
    return None if found is None or found.size != 1 else found.reshape(-1)[0].item()


class Normalisation(NamedTuple):
    """``x`` over its root mean square along the last axis, times ``weight``."""

    x: Any
    weight: Any
    epsilon: float


def normalisation(node: Any) -> Normalisation | None:
    """Return the normalisation by the root mean square that a node ends, or None."""
    if node is None or node.op_type != "Mul":
        return None
    for weight, normed in (node.inputs, node.inputs[::-1]):
        values = constant(weight)
        product = made_by(uncast(normed), "Mul")
        if values is None or values.ndim != 1 or values.size < 2 or product is None:
            continue
        for x, inverse in (product.inputs, product.inputs[::-1]):
            epsilon = _inverse_of(inverse, x)
            if epsilon is not None:
                return Normalisation(uncast(x), weight, epsilon)
    return None


def _inverse_of(value: Any, x: Any) -> float | None:
    """Return epsilon where a value is ``1 / sqrt(mean(x²) + epsilon)``, or None."""
    division = made_by(value, "Div")
    root = made_by(division.inputs[1], "Sqrt") if division is not None and _number(division.inputs[0]) == 1 else None
    added = made_by(root.inputs[0], "Add") if root is not None else None
    if added is None:
        return None
    mean, epsilon = made_by(added.inputs[0], "ReduceMean"), _number(added.inputs[1])
    square = made_by(mean.inputs[0], "Pow") if mean is not None and _number(mean.inputs[1]) == -1 else None
    if square is None or epsilon is None or _number(square.inputs[1]) != 2 or square.inputs[0] is not x:
        return None
    return epsilon


class Rotation(NamedTuple):
    """``x`` ``[B, H, S, d]`` of which the first ``size`` values of each head are turned by cosines and sines."""

    x: Any
    cos: Any
    sin: Any
    size: int


def rotation(value: Any) -> Rotation | None:
    """Return the rotation of halves that makes a value, of whole heads or of their first part; None: there is none."""
    joined = made_by(value, "Concat")
    if joined is not None and len(joined.inputs) == 2:
        first, rest = rotation(joined.inputs[0]), _slice(joined.inputs[1])
        head = _slice(first.x) if first is not None else None
        if first is None or rest is None or head is None or head.x is not rest.x:
            return None
        return first._replace(x=head.x) if (head.start, head.end, rest.start) == (0, first.size, first.size) else None
    added = made_by(value, "Add")
    products = [made_by(one, "Mul") for one in added.inputs] if added is not None else [None]
    if any(one is None for one in products):
        return None
    straight, turned = [one for one in products if one is not None]
    for x, cos in (straight.inputs, straight.inputs[::-1]):
        for half, sin in (turned.inputs, turned.inputs[::-1]):
            size = _half_turned(half, x)
            if size is not None:
                return Rotation(x, cos, sin, size)
    return None


class _Slice(NamedTuple):
    x: Any
    start: float
    end: float


def _slice(value: Any) -> _Slice | None:
    """Return a slice along the last axis of four."""
    node = made_by(value, "Slice")
    if node is None or len(node.inputs) < 4 or _number(node.inputs[3]) not in (3, -1):
        return None
    start, end = _number(node.inputs[1]), _number(node.inputs[2])
    return None if start is None or end is None else _Slice(node.inputs[0], start, end)


def _half_turned(value: Any, x: Any) -> int | None:
    """Return d where a value is the second half of ``x`` ``[.., d]``, negated, and then its first half; else None."""
    joined = made_by(value, "Concat")
    negated = made_by(joined.inputs[0], "Neg") if joined is not None and len(joined.inputs) == 2 else None
    if negated is None:
        return None
    second, first = _slice(negated.inputs[0]), _slice(joined.inputs[1])
    if second is None or first is None or second.x is not x or first.x is not x:
        return None
    half = int(first.end)
    return 2 * half if first.start == 0 and second.start == half and second.end >= 2 * half else None


def rotation_table(turn: Rotation, positions: Any, count: int) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return cosines and sines of positions 0, 1, ... ``[count, size / 2]``; None: they hang on more than a position.

    A rotation that looks at how many positions there are (dynamic scaling) differs between a short and a long table.
    """
    found = []
    for value in (turn.cos, turn.sin):
        table = _evaluated(value, positions, count)
        few = _evaluated(value, positions, _FEW_POSITIONS)
        if table is None or few is None or table.shape != (count, turn.size):
            return None
        half = turn.size // 2
        if not np.allclose(table[: len(few)], few, atol=1e-6) or not np.array_equal(table[:, :half], table[:, half:]):
            return None
        found.append(np.ascontiguousarray(table[:, :half], np.float32))
    return found[0], found[1]


def _evaluated(value: Any, positions: Any, count: int) -> NDArray[Any] | None:
    """Return a value ``[1, 1, count, size]`` for these positions in one row, as ``[count, size]``."""
    import onnx_ir as ir
    from onnx.reference import ReferenceEvaluator

    seen, waiting = set(), [value]
    while waiting:
        one = waiting.pop()
        if one is None or one is positions or one.const_value is not None or one in seen:
            continue
        if one.producer() is None or one.producer().domain:
            return None
        seen.add(one)
        waiting += one.producer().inputs
    part = ir.convenience.extract(value.producer().graph, [positions], [value])
    part.name = "table"
    table: NDArray[Any] = ReferenceEvaluator(ir.to_proto(ir.Model(part, ir_version=IR_VERSION))).run(
        None, {positions.name: np.arange(count)[None]}
    )[0]
    return table.reshape(-1, table.shape[-1]) if table.shape[:-1] == (1, 1, count) else None
