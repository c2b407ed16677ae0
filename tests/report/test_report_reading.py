"""The report as people read it: by keyboard, in the dark, on a phone, printed, with many cases; axe-core looks too."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rotation import in_turn
from synthetic import LIMITS, Speed, edit_json, make_run
from test_html import ENGINES, SPEEDS, browser, opened, report_of, without_scripts  # noqa: F401 (browser: a fixture)
from test_speed_against_quality import KL
from test_speed_against_quality import made as with_quality

from slmbench.analysis.sides import read_side
from slmbench.analysis.verdicts import compare_sides
from slmbench.report.html import comparison_report
from slmbench.report.run_conditions import facts

SIZE_BYTES = 2_000_000
#: A run of models that are no pair, with quality, on three engines: the widest table there is.
WIDE = [(replace(speed, input_tokens=n, flags=("foreign_load",)), kl) for speed, kl in KL for n in (128, 512)]


def written(folder: Path, text: str) -> Path:
    file = folder / "page.html"
    file.write_text(text, encoding="utf-8")
    return file


def pages(folder: Path) -> dict[str, str]:
    limits = {f"{engine}|cpu": {**LIMITS["openvino|cpu"], "engine": engine} for engine in ENGINES}
    sides = [read_side(str(make_run([Speed(loads=8)], seed=seed).write(folder / f"side-{seed}"))) for seed in (1, 2)]
    return {
        "run": report_of(make_run(SPEEDS, limits=limits).write(folder / "run")),
        "quality": report_of(with_quality(folder / "quality", WIDE)),
        "comparison": comparison_report([compare_sides(*sides)]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("scheme", in_turn(["light", "dark"], 2))
def test_axe_finds_nothing_serious(tmp_path: Path, browser: Any, scheme: str) -> None:  # noqa: F811
    spec = find_spec("axe_playwright_python")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("axe-playwright-python is not installed")
    axe = (Path(spec.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")
    for name, text in pages(tmp_path).items():
        page, troubles = opened(browser, written(tmp_path, text), scheme)
        page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, { preload: false })")
        assert len(found["passes"]) > 15, "axe did not look"
        serious = [
            (one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == [], name
        assert troubles == []
        page.close()


@pytest.mark.slow
def test_everything_is_reached_by_keyboard(tmp_path: Path, browser: Any) -> None:  # noqa: F811
    page, _ = opened(browser, written(tmp_path, pages(tmp_path)["run"]))
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(e => e.tagName + (e.type ? ':' + e.type : '') + (e.className ? '.' + e.className : ''))"
                "(document.activeElement)"
            )
        )
    assert {"BUTTON:button", "INPUT:search", "INPUT:checkbox", "SUMMARY", "DIV.scroll", "A"} <= reached
    head = page.locator("#table-1 th", has_text="ttft ms").first
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    page.locator("summary").last.focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open]").count() == 1


@pytest.mark.slow
def test_a_phone_has_to_scroll_tables_alone(tmp_path: Path, browser: Any) -> None:  # noqa: F811
    for text in pages(tmp_path).values():
        page, _ = opened(browser, written(tmp_path, text))
        page.set_viewport_size({"width": 400, "height": 800})
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        page.close()


@pytest.mark.slow
def test_quality_is_in_sight_and_other_columns_are_a_click_away(tmp_path: Path, browser: Any) -> None:  # noqa: F811
    page, _ = opened(browser, written(tmp_path, pages(tmp_path)["quality"]))
    table = page.locator(".scroll").first
    assert table.evaluate("e => e.scrollWidth <= e.clientWidth"), "the last column is cut off"
    heads = page.locator("#table-1 th:visible").all_inner_texts()
    assert any(head.startswith("KL nats") for head in heads)
    assert not any(head.startswith("itl p50") for head in heads)
    page.get_by_label("all columns").check()
    assert any(head.startswith("itl p50") for head in page.locator("#table-1 th:visible").all_inner_texts())
    # The header stays where it is while rows go by.
    top = page.locator("#table-1 thead th").first
    page.set_viewport_size({"width": 1280, "height": 300})
    before = top.bounding_box()["y"]
    table.evaluate("e => { e.scrollTop = 100; }")
    assert abs(top.bounding_box()["y"] - before) < 2


def test_the_picture_comes_first_and_conditions_are_words(tmp_path: Path) -> None:
    folder = make_run(SPEEDS, limits=LIMITS).write(tmp_path / "run")
    edit_json(folder / "run.json", options={"models": [], "suite": None, "budget_s": 60.0, "arms": [["a", "b"]]})
    text = without_scripts(report_of(folder))
    order = [text.index(part) for part in ('id="chart-1"', 'id="table-1"', "<h2>Conditions", "<h2>Each case")]
    assert order == sorted(order)
    shown = re.sub(r"<[^>]+>", " ", text)
    assert "Machine: Example 9000, 2 cores, 24 GiB of memory" in shown
    assert not re.search(r"\bNone\b|\bTrue\b|\bFalse\b|[{]&#39;|\[\]|\(\)", shown)


def test_what_is_not_known_is_left_out_and_lists_are_words() -> None:
    tree = {"a_b": None, "on": True, "many": [], "two": ["x", "y"], "deep": [{"k_1": 1.23456, "no": None}, {"k_1": 2}]}
    assert facts({**tree, "in": {"z": "w"}}) == [
        ("on", "yes"),
        ("two", "x, y"),
        ("deep", "k 1 1.235; k 1 2"),
        ("in: z", "w"),
    ]


def test_the_figures_of_loads_lead_to_the_level_shown(tmp_path: Path) -> None:
    text = report_of(make_run([Speed(loads=4)]).write(tmp_path / "run"))
    loads = text[text.index('aria-label="Loads of') :]
    foot = loads[loads.index("<tfoot>") : loads.index("</tfoot>")]
    cells = re.findall(r"<td class=\"right\">([^<]*)</td>", foot)
    assert cells[0] == "level"
    medians = [float(row[-2]) for row in _rows(loads[: loads.index("<tfoot>")])]
    product = 1.0
    for median in medians:
        product *= median
    assert float(cells[-2].split()[0]) == pytest.approx(product ** (1 / len(medians)), rel=0.005)
    table = text[text.index('<table id="table-1">') : text.index("<h2>Conditions")]
    assert f"<span>{cells[-2].split()[0]}</span>" in table


def _rows(text: str) -> list[list[str]]:
    return [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr>(<td.*?)</tr>", text)]


@pytest.mark.slow
def test_two_hundred_cases_stay_small(tmp_path: Path) -> None:
    speeds = [
        Speed(model=f"model-{number}", backend=backend, engine=backend, input_tokens=n, loads=5, rounds=4)
        for number in range(25)
        for backend in ("openvino", "onnxruntime")
        for n in (64, 128, 256, 512)
    ]
    text = report_of(make_run(speeds).write(tmp_path / "run"))
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert len(charts) >= 4
    assert len(text.encode()) < SIZE_BYTES
