"""Into other people's tools: Bencher, github-action-benchmark, JUnit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal
from xml.etree import ElementTree

from slmbench.analysis.judged_once import groups_of_one_figure
from slmbench.analysis.judgement import FAILING, JudgedFigure, Judgement
from slmbench.analysis.metrics import Evidence, Side
from slmbench.analysis.quality import QualityJudgement, loss_text
from slmbench.analysis.quality_metrics import unit_of, written_gate
from slmbench.analysis.stats import Interval
from slmbench.analysis.verdicts import Comparison
from slmbench.errors import one_line
from slmbench.report.comparison import missing_cases, other_refusals, seen_in
from slmbench.report.comparison_columns import also_for
from slmbench.report.text_table import bounds

ExportFormat = Literal["bencher", "github-smaller", "github-bigger"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = ("bencher", "github-smaller", "github-bigger")
#: Bencher takes names up to this length.
_BENCHER_NAME = 1024
_EXPORTED = ("ttft", "tpot", "e2e")
_RATES = {"tpot": "decode_tps", "e2e": "e2e_tps"}


def export_side(side: Side, kind: ExportFormat) -> str:
    """Return a side in another tool's JSON."""
    if kind == "bencher":
        return bencher_json(side)
    return github_json(side, bigger=kind == "github-bigger")


def bencher_json(side: Side) -> str:
    """Return Bencher Metric Format: benchmark → measure → value with bounds; times in ns, as Bencher has them."""
    raw = {
        key[:_BENCHER_NAME]: {metric: _bencher_metric(found.interval().scaled(1e9)) for metric, found in exported}
        for key, exported in _exported(side).items()
    }
    return json.dumps(raw, indent=1, allow_nan=False)


def _bencher_metric(interval: Interval) -> dict[str, float]:
    metric = {"value": interval.mid}
    return metric | {"lower_value": interval.low, "upper_value": interval.high} if interval.known else metric


def github_json(side: Side, *, bigger: bool) -> str:
    """Return github-action-benchmark's custom JSON: times in ms (smaller is better) or rates (bigger is better)."""
    raw = []
    for key, exported in _exported(side).items():
        for metric, found in exported:
            interval = found.interval()
            name = metric
            if bigger:
                if metric not in _RATES:
                    continue
                name, work = _RATES[metric], side.cases[key].case.workload
                tokens = work.rows * (work.total_output_tokens if metric == "e2e" else 1)
                interval = interval.inverse().scaled(tokens)
            else:
                interval = interval.scaled(1e3)
            entry = {"name": f"{key} {name}", "unit": "tokens/s" if bigger else "ms", "value": interval.mid}
            if interval.known:
                entry["range"] = f"[{interval.low:.6g}, {interval.high:.6g}]"
            entry["extra"] = f"mean of the medians of {found.logs.size} loads"
            raw.append(entry)
    return json.dumps(raw, indent=1, allow_nan=False)


def _exported(side: Side) -> dict[str, list[tuple[str, Evidence]]]:
    """Return the figures of each case; one that several cases share is with the case that stands for it."""
    found: dict[str, list[tuple[str, Evidence]]] = {key: [] for key in side.cases}
    for metric in _EXPORTED:
        measured = [key for key, case in side.cases.items() if metric in case.evidence]
        for owner, *_ in groups_of_one_figure(metric, measured, [side]):
            found[owner].append((metric, side.cases[owner].evidence[metric]))
    return {key: figures for key, figures in found.items() if figures}


def junit_xml(comparisons: Sequence[Comparison], problems: Sequence[str] = ()) -> str:
    """Return JUnit XML, one test a case and metric.

    A regression, a loss of quality and a speed-up that comes with one are failures. A failed case, an inconclusive
    verdict and what could not be judged are errors: none of them is a pass. A cell that cannot run on the new side, and
    is no case of the base, is skipped, with its reason.
    ``problems`` are machines that could not be judged: errors, too.
    """
    suites = ElementTree.Element("testsuites", name="slmbench check")
    for comparison in comparisons:
        suite = ElementTree.SubElement(
            suites, "testsuite", name=_xml(f"{comparison.new.name} against {comparison.base.name}")
        )
        for judgement in comparison.judged():
            _add_test(suite, judgement)
        for left in comparison.not_judged:
            test = ElementTree.SubElement(suite, "testcase", classname=_xml(left.key), name=left.metric)
            ElementTree.SubElement(test, "error", message=_xml(f"not judged: {left.reason}"), type="not judged")
        for key, reason in comparison.failed.items():
            test = ElementTree.SubElement(suite, "testcase", classname=_xml(key), name="case")
            ElementTree.SubElement(test, "error", message=_xml(reason), type="failed")
        for key, hint in missing_cases(comparison).items():
            test = ElementTree.SubElement(suite, "testcase", classname=_xml(key), name="case")
            ElementTree.SubElement(test, "error", message=_xml(f"not measured on the new side{hint}"), type="missing")
        for refusal in other_refusals(comparison):
            test = ElementTree.SubElement(suite, "testcase", classname=_xml(refusal.label), name="case")
            ElementTree.SubElement(test, "skipped", message=_xml(f"cannot run: {refusal.reason}"))
    if problems:
        machines = ElementTree.SubElement(suites, "testsuite", name="machines")
        for problem in problems:
            test = ElementTree.SubElement(machines, "testcase", classname="machines", name=_xml(problem.split(":")[0]))
            ElementTree.SubElement(test, "error", message=_xml(problem), type="not comparable")
    return _document(suites)


def refusal_xml(kind: str, reason: str) -> str:
    """Return JUnit XML of a check that could not judge: one test, an error with the reason."""
    suites = ElementTree.Element("testsuites", name="slmbench check")
    suite = ElementTree.SubElement(suites, "testsuite", name="slmbench check")
    test = ElementTree.SubElement(suite, "testcase", classname="slmbench check", name=kind)
    ElementTree.SubElement(test, "error", message=_xml(reason), type=kind)
    return _document(suites)


def _document(suites: ElementTree.Element) -> str:
    for suite in suites:
        for kind, plural in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            suite.set(plural, str(len(suite.findall(f"testcase/{kind}"))))
        suite.set("tests", str(len(suite.findall("testcase"))))
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _add_test(suite: ElementTree.Element, judgement: JudgedFigure) -> None:
    test = ElementTree.SubElement(suite, "testcase", classname=_xml(judgement.key), name=judgement.metric)
    test.set("time", f"{judgement.new.mid:.9f}" if unit_of(judgement.metric) == "s" else "0")
    text = _xml(judged_sentence(judgement))
    if judgement.verdict in FAILING:
        ElementTree.SubElement(test, "failure", message=text, type=judgement.verdict)
    elif judgement.verdict in ("inconclusive", "not judged"):
        ElementTree.SubElement(test, "error", message=text, type=judgement.verdict)
    else:
        ElementTree.SubElement(test, "system-out").text = text


def _xml(text: str) -> str:
    """Return text without the control characters that XML cannot hold."""
    return one_line(text)


def judged_sentence(judgement: JudgedFigure) -> str:
    """Return a judgement with its figures on one line."""
    text = f"{_figures(judgement)}, gate {written_gate(judgement.gate, judgement.metric)}"
    if judgement.reason:
        text += f"; {judgement.reason}"
    if judgement.verdict == "inconclusive" and (sight := seen_in([judgement])):
        text += f"; {sight}"
    return f"{judgement.verdict}: {text}{also_for(judgement)}"


def _figures(judgement: JudgedFigure) -> str:
    if isinstance(judgement, QualityJudgement):
        return loss_text(judgement)
    assert isinstance(judgement, Judgement)
    return f"{judgement.metric} is {judgement.ratio.mid:.3f}x{bounds(judgement.ratio, 3, '')} of the base"
