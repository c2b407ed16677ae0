"""Into other people's tools: Bencher, github-action-benchmark, JUnit, GitHub's job summary and annotations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal
from xml.etree import ElementTree

from slmbench.analysis.metrics import METRICS, Evidence, Side, SideCase
from slmbench.analysis.stats import Interval
from slmbench.analysis.verdicts import Comparison, Judgement
from slmbench.errors import one_line
from slmbench.report.comparison import comparison_markdown, headline, pair_lines, seen
from slmbench.report.text_table import bounds, escape_markdown, markdown_table

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
        for key, case in side.cases.items()
        if (exported := _exported(case))
    }
    return json.dumps(raw, indent=1, allow_nan=False)


def _bencher_metric(interval: Interval) -> dict[str, float]:
    metric = {"value": interval.mid}
    return metric | {"lower_value": interval.low, "upper_value": interval.high} if interval.known else metric


def github_json(side: Side, *, bigger: bool) -> str:
    """Return github-action-benchmark's custom JSON: times in ms (smaller is better) or rates (bigger is better)."""
    raw = []
    for key, case in side.cases.items():
        for metric, found in _exported(case):
            interval = found.interval()
            name = metric
            if bigger:
                if metric not in _RATES:
                    continue
                name, work = _RATES[metric], case.case.workload
                tokens = work.rows * (work.total_output_tokens if metric == "e2e" else 1)
                interval = interval.inverse().scaled(tokens)
            else:
                interval = interval.scaled(1e3)
            entry = {"name": f"{key} {name}", "unit": "tokens/s" if bigger else "ms", "value": interval.mid}
            if interval.known:
                entry["range"] = f"[{interval.low:.6g}, {interval.high:.6g}]"
            entry["extra"] = f"median over {found.logs.size} loads"
            raw.append(entry)
    return json.dumps(raw, indent=1, allow_nan=False)


def _exported(case: SideCase) -> list[tuple[str, Evidence]]:
    return [(metric, case.evidence[metric]) for metric in _EXPORTED if metric in case.evidence]


def junit_xml(comparisons: Sequence[Comparison], problems: Sequence[str] = ()) -> str:
    """Return JUnit XML, one test a case and metric.

    A regression is a failure. A failed case, an inconclusive verdict and what could not be judged are errors: none of
    them is a pass.
    ``problems`` are machines that could not be judged: errors, too.
    """
    suites = ElementTree.Element("testsuites", name="slmbench check")
    for comparison in comparisons:
        suite = ElementTree.SubElement(
            suites, "testsuite", name=_xml(f"{comparison.new.name} against {comparison.base.name}")
        )
        for judgement in comparison.judgements:
            _add_test(suite, judgement)
        for left in comparison.not_judged:
            test = ElementTree.SubElement(suite, "testcase", classname=_xml(left.key), name=left.metric)
            ElementTree.SubElement(test, "error", message=_xml(f"not judged: {left.reason}"), type="not judged")
        for key, reason in comparison.failed.items():
            test = ElementTree.SubElement(suite, "testcase", classname=_xml(key), name="case")
            ElementTree.SubElement(test, "error", message=_xml(reason), type="failed")
        for key in comparison.only_base:
            test = ElementTree.SubElement(suite, "testcase", classname=_xml(key), name="case")
            ElementTree.SubElement(test, "error", message="not measured on the new side", type="missing")
    if problems:
        machines = ElementTree.SubElement(suites, "testsuite", name="machines")
        for problem in problems:
            test = ElementTree.SubElement(machines, "testcase", classname="machines", name=_xml(problem.split(":")[0]))
            ElementTree.SubElement(test, "error", message=_xml(problem), type="not comparable")
    for suite in suites:
        for kind, plural in (("failure", "failures"), ("error", "errors")):
            suite.set(plural, str(len(suite.findall(f"testcase/{kind}"))))
        suite.set("tests", str(len(suite.findall("testcase"))))
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _add_test(suite: ElementTree.Element, judgement: Judgement) -> None:
    test = ElementTree.SubElement(suite, "testcase", classname=_xml(judgement.key), name=judgement.metric)
    test.set("time", f"{judgement.new.mid:.9f}" if METRICS[judgement.metric].unit == "s" else "0")
    text = _xml(_sentence(judgement))
    if judgement.verdict == "regressed":
        ElementTree.SubElement(test, "failure", message=text, type="regressed")
    elif judgement.verdict in ("inconclusive", "not judged"):
        ElementTree.SubElement(test, "error", message=text, type=judgement.verdict)
    else:
        ElementTree.SubElement(test, "system-out").text = text


def _xml(text: str) -> str:
    """Return text without the control characters that XML cannot hold."""
    return one_line(text)


def _sentence(judgement: Judgement) -> str:
    ratio = judgement.ratio
    text = f"{judgement.metric} is {ratio.mid:.3f}x{bounds(ratio, 3, '')} of the base, gate {judgement.gate * 100:g} %"
    if judgement.verdict == "inconclusive":
        return f"{judgement.verdict}: {text}; {judgement.reason}; {seen(judgement)}"
    return f"{judgement.verdict}: {text}"


def job_summary(comparisons: Sequence[Comparison], problems: Sequence[str] = ()) -> str:
    """Return Markdown for ``$GITHUB_STEP_SUMMARY``: what matters in a table, everything else folded."""
    parts = [f"## slmbench: not comparable: {escape_markdown(problem)}\n" for problem in problems]
    for comparison in comparisons:
        parts.append(f"## slmbench: {escape_markdown(headline(comparison))}\n")
        loud = [j for j in comparison.judgements if j.verdict in ("regressed", "improved", "inconclusive")]
        rows = [[j.verdict, j.key, j.metric, _ratio(j)] for j in loud]
        rows += [["not judged", left.key, left.metric, left.reason] for left in comparison.not_judged]
        rows += [["failed", key, "", reason] for key, reason in comparison.failed.items()]
        rows += [["not measured", key, "", ""] for key in comparison.only_base]
        if rows:
            parts.append(markdown_table(["verdict", "case", "metric", "new / base"], rows, [False, False, False, True]))
        parts += [f"- {escape_markdown(line)}\n" for line in pair_lines([comparison.new])]
        body = comparison_markdown(comparison)
        parts.append(f"<details><summary>All figures</summary>\n\n{body}\n</details>\n")
    return "\n".join(parts)


def _ratio(judgement: Judgement) -> str:
    return f"{judgement.ratio.mid:.3f}{bounds(judgement.ratio, 3, '')}"


def annotation_lines(comparisons: Sequence[Comparison], problems: Sequence[str] = ()) -> list[str]:
    """Return GitHub workflow commands: an error a regression or failure, a warning where nothing could be told."""
    lines = [_command("error", "slmbench: not comparable", problem) for problem in problems]
    for comparison in comparisons:
        if comparison.unjudged:
            lines.append(_command("error", "slmbench: not comparable", comparison.unjudged))
        for judgement in comparison.judgements:
            kind = {"regressed": "error", "inconclusive": "warning", "improved": "notice"}.get(judgement.verdict)
            if kind:
                text = f"{judgement.key}: {_sentence(judgement)}"
                lines.append(_command(kind, f"slmbench: {judgement.verdict}", text))
        lines += [
            _command("warning", "slmbench: not judged", f"{left.key} {left.metric}: {left.reason}")
            for left in comparison.not_judged
        ]
        lines += [
            _command("error", "slmbench: failed", f"{key}: {reason}") for key, reason in comparison.failed.items()
        ]
        lines += [_command("warning", "slmbench: not measured", key) for key in comparison.only_base]
    return lines


def _command(kind: str, title: str, message: str) -> str:
    def escaped(text: str) -> str:
        # A log shows what a terminal would obey, and other commands to GitHub begin a line.
        return one_line(text).replace("%", "%25")

    properties = escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={properties}::{escaped(message)}"
