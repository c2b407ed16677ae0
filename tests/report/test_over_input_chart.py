"""The chart of the first token over the input length: few lines have their names, of many one engine is drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slmbench.analysis.crossover import Crossover, Curve
from slmbench.analysis.stats import Interval
from slmbench.report.chart_files import write_picture
from slmbench.report.over_input_chart import ttft_over_input


def curve(model: str, where: str, *, lengths: tuple[int, ...] = (128, 512)) -> Curve:
    points = {length: Interval(length * 0.9e-3, length * 1e-3, length * 1.1e-3) for length in lengths}
    return Curve(f"{model}, {where}", model, "encoder-decoder", where, points)


def engines(count: int, models: tuple[str, ...] = ("a", "b")) -> list[Curve]:
    return [curve(model, f"engine{number} fp32/fp32") for number in range(count) for model in models]


def drawn(curves: list[Curve], crossings: tuple[Crossover, ...] = ()) -> Any:
    found = ttft_over_input(curves, crossings)
    assert found is not None
    return found


def test_one_length_is_no_line() -> None:
    assert ttft_over_input([curve("a", "x fp32/fp32", lengths=(128,))], ()) is None


def test_few_lines_are_named_together_each_in_its_colour() -> None:
    lines = engines(5, ("a",))
    chart = drawn(lines)
    assert "engine and precision" not in json.dumps(chart)
    color = chart["layer"][0]["encoding"]["color"]["scale"]
    assert color["domain"] == [one.label for one in lines]
    assert len(set(color["range"])) == 5


def test_many_lines_are_drawn_an_engine_at_a_time_with_a_colour_for_each_model(tmp_path: Path) -> None:
    crossing = Crossover(Interval(200, 250, 300), "engine3 fp32/fp32")
    chart = drawn(engines(4), (crossing,))
    (chosen,) = [one for one in chart["params"] if one["name"] == "engine"]
    assert chosen["value"] == "engine0 fp32/fp32"
    assert chosen["bind"]["options"] == [*(f"engine{number} fp32/fp32" for number in range(4)), "all"]
    assert chart["layer"][0]["encoding"]["color"]["scale"]["domain"] == ["a", "b"]
    marks = [layer for layer in chart["layer"] if layer["mark"]["type"] == "rect"]
    assert marks[0]["transform"] == chart["layer"][0]["transform"], "a crossing goes with its engine"
    write_picture(tmp_path / "chart.svg", chart)
    svg = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    assert "250 tokens" not in svg, "another engine's crossing is not drawn"
    chosen["value"] = "engine3 fp32/fp32"
    write_picture(tmp_path / "chart.svg", chart)
    assert "250 tokens" in (tmp_path / "chart.svg").read_text(encoding="utf-8")
