"""The XML of an OpenVINO IR, read as it comes: layers, edges and what made it. No document type, no entities."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from slmbench.errors import BadInputError, one_line
from slmbench.system.files import open_regular

_MOST_BYTES, _MOST_LAYERS, _MOST_NOTES = 1 << 28, 1 << 20, 64
_OPSET = re.compile(r"opset\d+")
#: Bits of an element. Other types (i64, boolean, ...) are indices and shapes, no weights.
BITS = {"f32": 32, "f16": 16, "bf16": 16, "f64": 64, "u8": 8, "i8": 8, "f8e4m3": 8, "f8e5m2": 8, "f8e8m0": 8,
        "u6": 6, "u4": 4, "i4": 4, "nf4": 4, "f4e2m1": 4, "u3": 3, "u2": 2, "u1": 1}  # fmt: skip


@dataclass
class IrLayer:
    """One operation of a graph."""

    type: str
    name: str
    data: dict[str, str] = field(default_factory=dict)
    #: Names of its output, by which a loop feeds or reads it.
    names: set[str] = field(default_factory=set)
    #: Sizes of its ports, inputs and outputs in the order of the file; -1 where they vary.
    ports: list[list[int]] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return a constant's shape."""
        return tuple(int(one) for one in self.data.get("shape", "").split(",") if one.strip())


@dataclass
class IrGraph:
    """A graph's layers by id, where each one's inputs come from, and its notes (``rt_info``)."""

    layers: dict[str, IrLayer] = field(default_factory=dict)
    #: Id to the ids that feed it, in the order of its ports.
    inputs: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def of_type(self, kind: str) -> list[str]:
        """Return the ids of all layers of a type."""
        return [key for key, layer in self.layers.items() if layer.type == kind]

    def input_names(self) -> set[str]:
        """Return the names of the graph's inputs."""
        layers = [self.layers[key] for key in self.of_type("Parameter")]
        return {name for layer in layers for name in (layer.names or {layer.name})}

    def constants(self) -> list[IrLayer]:
        """Return the constants that hold weights or their scales, each place of the file once."""
        found = {}
        for key in self.of_type("Const"):
            layer = self.layers[key]
            if layer.data.get("element_type") in BITS:
                found[layer.data.get("offset", key)] = layer
        return list(found.values())


class _Builder:
    """Collects what expat tells."""

    def __init__(self) -> None:
        self.graph, self._layer = IrGraph(), IrLayer("", "")
        self._path: list[str] = []
        self._text = ""
        self._edges: list[tuple[str, int, str]] = []

    def finish(self) -> IrGraph:
        """Return the graph, each layer's inputs in the order of its ports."""
        for target, _, source in sorted(self._edges, key=lambda edge: edge[1]):
            self.graph.inputs.setdefault(target, []).append(source)
        return self.graph

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        depth, graph = len(self._path), self.graph
        if depth > 64:
            raise ValueError("it is nested too deeply")
        if self._path[:2] == ["net", "layers"] and tag == "layer" and depth == 3:
            self._add_layer(attributes)
        elif tag == "data" and depth == 4:
            self._layer.data = attributes
        elif tag == "port" and depth == 5:
            self._layer.ports.append([])
            if self._path[3] == "output":
                self._layer.names |= {name for name in attributes.get("names", "").split(",") if name}
        elif tag == "edge" and depth == 3:
            self._edges.append((attributes["to-layer"], int(attributes["to-port"]), attributes["from-layer"]))
        elif self._path[1:2] == ["rt_info"] and attributes.get("value") and len(graph.notes) < _MOST_NOTES:
            graph.notes[".".join(self._path[2:])] = attributes["value"]
        self._text = ""

    def _add_layer(self, attributes: dict[str, str]) -> None:
        kind, version = attributes["type"], attributes.get("version", "")
        if not _OPSET.fullmatch(version):
            raise ValueError(
                f"its operation '{one_line(kind)[:60]}' ({one_line(version)[:40]}) is no operation of OpenVINO's own: "
                "it needs an extension, which is code that slmbench does not load"
            )
        if len(self.graph.layers) >= _MOST_LAYERS:
            raise ValueError(f"more than {_MOST_LAYERS} layers")
        self._layer = self.graph.layers[attributes["id"]] = IrLayer(kind, attributes.get("name", ""))

    def text(self, text: str) -> None:
        self._text += text[:64]

    def end(self, tag: str) -> None:
        if tag == "dim" and len(self._path) == 6 and self._layer.ports:
            self._layer.ports[-1].append(int(self._text))
        self._path.pop()


def read_ir(path: Path) -> IrGraph:
    """Return the graph of an IR, whose constants are whole within the file of weights next to it.

    Raises:
        BadInputError: it is damaged, brings a document type, needs an extension, or its weights are cut.
    """
    builder, parser = _Builder(), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.text
    parser.StartDoctypeDeclHandler = _no_doctype
    try:
        with open_regular(path) as file:
            if path.stat().st_size > _MOST_BYTES:
                raise ValueError(f"it is larger than {_MOST_BYTES:,} bytes")
            parser.ParseFile(file)
        graph = builder.finish()
        _check_weights(graph, path.with_suffix(".bin"))
    except (OSError, ValueError, LookupError, expat.ExpatError) as error:
        reason = f"no attribute {error}" if isinstance(error, LookupError) else str(error)
        raise BadInputError(f"{path}: not an OpenVINO IR that can be used: {one_line(reason)[:250]}") from error
    return graph


def small_integers(layer: IrLayer, weights: Path) -> list[int] | None:
    """Return the values of a constant of a few indices, which are all that is read of the weights; None of others."""
    size = {"i64": 8, "i32": 4}.get(layer.data.get("element_type", ""))
    length = int(layer.data.get("size", "0"))
    if layer.type != "Const" or size is None or not 0 < length <= 64:
        return None
    with open_regular(weights) as file:
        file.seek(int(layer.data["offset"]))
        raw = file.read(length)
    return [int.from_bytes(raw[at : at + size], "little", signed=True) for at in range(0, length, size)]


def _no_doctype(*_: Any) -> None:
    raise ValueError("it declares a document type, which an IR does not have")


def _check_weights(graph: IrGraph, weights: Path) -> None:
    if not graph.layers:
        raise ValueError("it has no layers")
    size = weights.stat().st_size
    for key in graph.of_type("Const"):
        layer = graph.layers[key]
        begin, length = int(layer.data.get("offset", "-1")), int(layer.data.get("size", "-1"))
        if begin < 0 or length < 0 or begin + length > size:
            raise ValueError(f"its constant '{one_line(layer.name)[:60]}' ends beyond {weights.name} ({size:,} bytes)")
        bits = BITS.get(layer.data.get("element_type", ""))
        if bits and any(one < 0 for one in layer.shape):
            raise ValueError(f"its constant '{one_line(layer.name)[:60]}' has no shape")
        if bits and math.prod(layer.shape) * bits > 8 * length + 7:
            raise ValueError(f"its constant '{one_line(layer.name)[:60]}' is larger than its place")
