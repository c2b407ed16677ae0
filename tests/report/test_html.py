"""The HTML reports: offline, escaped, and alive in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import LIMITS, MACHINE, Speed, append, floor_of, make_run
from test_speed_against_quality import KL
from test_speed_against_quality import made as with_quality

from slmbench.analysis.crossover import crossovers
from slmbench.analysis.exit_code import exit_code
from slmbench.analysis.machines import Stand, shelf_of
from slmbench.analysis.metrics import side_of
from slmbench.analysis.pairs import pairs_of
from slmbench.analysis.sides import read_side, read_sides
from slmbench.analysis.verdicts import compare_sides
from slmbench.errors import ExitCode
from slmbench.records.sample_arrays import read_columns
from slmbench.records.schema import FailureRecord
from slmbench.report.chart_parts import FAMILIES
from slmbench.report.html import comparison_report, run_charts, run_report
from slmbench.report.machines_formats import shelf_page
from slmbench.report.run_table import run_table, table_rows
from slmbench.report.write import table_markdown

HOSTILE = "</script><img src=x onerror=alert(1)>"
ENGINES = ("openvino", "onnxruntime")
SPEEDS = [
    Speed(model=model, family=family, backend=backend, engine=backend, attention=path, input_tokens=length, ttft_ms=ms)
    for length, slow, quick in ((32, 5, 7), (128, 20, 17), (512, 80, 55))
    for backend, path in (("openvino", "SDPA"), ("onnxruntime", "GroupQueryAttention"))
    for model, family, ms in (("mu-small", "encoder-decoder", quick), ("dec-small", "decoder-only", slow))
]


def report_of(folder: Path) -> str:
    run = read_columns(folder)
    return run_report(run, table_rows(run))


def without_scripts(text: str) -> str:
    """Return a page without what its scripts say: vega's own source has HTML in strings."""
    return re.sub(r"(<script[^>]*>).*?</script>", r"\1", text, flags=re.DOTALL)


def test_a_report_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    text = without_scripts(report_of(make_run(SPEEDS).write(tmp_path / "run")))
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", text)
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert text.index("reaches its first token") < text.index("<table")


def test_names_cannot_break_out(tmp_path: Path) -> None:
    text = report_of(make_run([Speed(model=HOSTILE)]).write(tmp_path / "run"))
    assert HOSTILE not in text
    assert "<img" not in without_scripts(text)
    assert text.count("<script") == text.count("</script>") == 3
    assert "&lt;/script&gt;" in text


def test_the_same_run_makes_the_same_report(tmp_path: Path) -> None:
    folder = make_run(SPEEDS).write(tmp_path / "run")
    assert report_of(folder) == report_of(folder)


def labels_in(spec: Any) -> Iterator[str]:
    """Yield what the rows of a chart's data are called."""
    for value in spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ():
        yield from labels_in(value)
    if isinstance(spec, dict):
        yield from [spec[name] for name in ("line", "row", "case") if isinstance(spec.get(name), str)][:1]


def test_every_arm_is_drawn(tmp_path: Path) -> None:
    """Twice as many cases in two arms are twice as many of everything: rows, details, lines, bars, points."""

    def counts(speeds: list[Speed]) -> dict[str, int]:
        limits = {f"{engine}|cpu": {**LIMITS["openvino|cpu"], "engine": engine} for engine in ENGINES}
        run = read_columns(make_run(speeds, limits=limits).write(tmp_path / f"run-{len(speeds)}"))
        found = {"rows": len(run_table(run)), "details": run_report(run, table_rows(run)).count("<details id=")}
        return found | {title: len(set(labels_in(spec))) for title, spec in run_charts(run).items()}

    plain = [speed for speed in SPEEDS if speed.input_tokens < 512]
    armed = [replace(speed, arm=arm) for arm in ("old", "new") for speed in plain]
    once, twice = counts(plain), counts(armed)
    assert len(once) == 9
    assert twice == {name: 2 * count for name, count in once.items()}


def test_an_arm_that_failed_does_not_hide_the_other(tmp_path: Path) -> None:
    folder = make_run([Speed(arm="old"), Speed(arm="new", loads=0)]).write(tmp_path / "run")
    failure = FailureRecord(case=Speed(arm="new").case.key, load=0, reason="killed", message="out of memory")
    append(folder, failure)
    assert {"Time to first token", "Gap before each token"} <= set(run_charts(read_columns(folder)))
    table = table_markdown(read_columns(folder), table_rows(read_columns(folder)))
    assert "dec-small on openvino in fp32 (512 / 32), arm new: failed: killed: out of memory" in table
    old, new = read_sides([str(folder)])
    assert exit_code([compare_sides(old, new)]) == ExitCode.FAILED


def test_a_family_has_one_colour_in_all_charts(tmp_path: Path) -> None:
    folder = make_run([Speed(), Speed(model="mu-small", family="encoder-decoder")]).write(tmp_path / "run")
    chart = run_charts(read_columns(folder))["Gap before each token"]
    drawn = chart["encoding"]["color"]["scale"]
    colors = dict(zip(drawn["domain"], drawn["range"], strict=True))
    families = {row["case"]: row["family"] for row in chart["datasets"]["gaps"]}
    assert {families[case]: color for case, color in colors.items()} == FAMILIES


def test_an_empty_run_has_a_report(tmp_path: Path) -> None:
    assert "Nothing was measured" in report_of(make_run([]).write(tmp_path / "run"))


def test_curves_cross_where_the_faster_family_changes(tmp_path: Path) -> None:
    side = read_side(str(make_run([s for s in SPEEDS if s.backend == "openvino"]).write(tmp_path / "run")))
    (crossing,) = crossovers(pairs_of(side))
    assert 32 < crossing.length.mid < 128
    assert crossing.length.low < crossing.length.mid < crossing.length.high
    assert crossing.where == "openvino fp32/fp32"


@pytest.fixture
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield launched
        launched.close()


def opened(browser: Any, path: Path, scheme: str = "light") -> tuple[Any, list[str]]:
    page = browser.new_page(color_scheme=scheme)
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: troubles.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=yes]", timeout=30_000)
    return page, troubles


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_run_report_works_in_a_browser(tmp_path: Path, browser: Any, scheme: str) -> None:
    folder = make_run(SPEEDS).write(tmp_path / "run")
    file = tmp_path / "report.html"
    file.write_text(report_of(folder), encoding="utf-8")
    page, troubles = opened(browser, file, scheme)
    assert page.locator(".chart svg").count() >= 5
    page.locator("input[type=search]").fill("openvino 512")
    assert page.locator("#table-1 tbody tr:visible").count() == 2
    assert page.locator("output").inner_text() == "2 of 12 rows"
    page.locator("input[type=search]").fill("")
    head = page.locator("#table-1 th", has_text="ttft ms").first
    head.locator("button").click()
    cells = page.locator("#table-1 tbody tr td.right:nth-child(5)").all_inner_texts()
    assert head.get_attribute("aria-sort") == "ascending"
    figures = [float(re.split(r"[ \[]", text)[0]) for text in cells if "[" in text]
    assert figures == sorted(figures)
    page.locator("#table-1 tbody tr a").first.click()
    page.wait_for_selector("details[open]")
    assert page.locator("details[open]").count() == 1
    assert "compute precision read back" in page.locator("details[open]").inner_text()
    page.locator("#chart-1-controls select").select_option("32 / 32")
    page.wait_for_function("[...document.querySelectorAll('#chart-1 text')].some(t => t.textContent.endsWith('32/32'))")
    ink = page.evaluate("getComputedStyle(document.querySelector('.chart svg text')).fill")
    assert ink == page.evaluate("getComputedStyle(document.body).color")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert troubles == []


@pytest.mark.slow
def test_flags_and_the_front_are_on_a_page_of_1280_pixels(tmp_path: Path, browser: Any) -> None:
    speeds = [
        (replace(speed, input_tokens=n, flags=("foreign_load",) if speed.backend == "openvino" else ()), kl)
        for speed, kl in KL
        for n in (128, 512)
    ]
    folder = with_quality(tmp_path / "run", speeds)
    file = tmp_path / "report.html"
    file.write_text(report_of(folder), encoding="utf-8")
    page, troubles = opened(browser, file)
    assert page.viewport_size["width"] == 1280
    table = page.locator(".scroll").first
    assert table.evaluate("e => e.scrollWidth <= e.clientWidth"), "the last column is cut off"
    assert "other processes disturbed" in table.locator("tbody tr").first.locator("td").last.inner_text()
    # A figure and its bounds may be on two lines, bounds never.
    assert table.evaluate("e => [...e.querySelectorAll('td.right span')].every(s => s.getClientRects().length <= 1)")
    front = page.locator("section", has=page.locator("h2", has_text="Speed against quality: time per output token"))
    drawn = front.locator("svg text").all_text_contents()
    assert {"front", "undecided", "behind", "int8/fp32 on llama_cpp"} <= set(drawn)
    front.locator("select").select_option(index=1)
    page.wait_for_timeout(200)
    assert front.locator("svg").bounding_box()["width"] <= 1280
    assert troubles == []


@pytest.mark.slow
def test_a_comparison_report_works_in_a_browser(tmp_path: Path, browser: Any) -> None:
    base = read_side(str(make_run([Speed(loads=8), Speed(model=HOSTILE)], seed=1).write(tmp_path / "a")))
    new = read_side(str(make_run([Speed(loads=8, ttft_ms=115), Speed(model=HOSTILE)], seed=2).write(tmp_path / "b")))
    file = tmp_path / "compare.html"
    file.write_text(comparison_report([compare_sides(base, new, floor=floor_of(base.cases))]), encoding="utf-8")
    page, troubles = opened(browser, file)
    assert "1 regressed" in page.locator(".verdict").inner_text()
    assert page.locator(".verdict.regressed").count() == 1
    assert page.locator("td.v-regressed").inner_text() == "▲ regressed"
    page.locator(".chart svg .role-legend-symbol").first.click()
    assert troubles == []


@pytest.mark.slow
def test_the_page_of_a_shelf_works_in_a_browser(tmp_path: Path, browser: Any) -> None:
    stands = []
    for number, name in enumerate(("box", HOSTILE)):
        machine = {**MACHINE, "hardware": {**MACHINE["hardware"], "cpu_model": name}}
        speeds = [Speed(model="mu-small", family="encoder-decoder", ttft_ms=50 + 50 * number), Speed()]
        run = read_columns(make_run(speeds, seed=number, machine=machine).write(tmp_path / str(number)))
        stands.append(Stand(name, side_of(run, name)))
    file = tmp_path / "shelf.html"
    file.write_text(shelf_page(shelf_of(stands), "shelf"), encoding="utf-8")
    page, troubles = opened(browser, file)
    assert page.locator("h2").first.inner_text() == "512 in / 32 out: time to first token (less is better), ms"
    assert page.locator("#table-1 tbody tr").count() == 2
    assert page.locator("#table-1 td.best").inner_text().startswith("* ")
    page.locator("#table-1 th", has_text="box").locator("button").click()
    assert page.locator("#table-1 tbody tr").first.inner_text().startswith("mu-small fp32")
    assert page.locator("#table-1 tfoot tr").inner_text().startswith("best there")
    assert page.locator(".chart svg").count() == 1
    assert troubles == []
