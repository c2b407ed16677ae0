from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmbench.errors import BadInputError
from slmbench.plan.precisions import parse_precision
from slmbench.plan.suite import MAX_CASES, Suite, load_suite, parse_suite, suite_names

MINIMAL = "name: s\ncheckpoints: [a]\nworkloads:\n  - input_tokens: 8\n    output_tokens: 2\n"


def test_every_shipped_suite_loads_and_has_a_header_comment() -> None:
    from slmbench.plan.suite import suite_text

    assert {"quick", "smoke"} <= set(suite_names())
    for name in suite_names():
        assert load_suite(name).name == name
        assert suite_text(name)[0].startswith("#")


def test_lists_multiply() -> None:
    suite = parse_suite(
        "name: s\npairs: [[a, b]]\ncheckpoints: [b, c]\nbackends: [x, y]\nprecisions: [fp32, int8/bf16]\n"
        "workloads:\n  - {input_tokens: [8, 16], output_tokens: 2}\n  - {input_tokens: 8, output_tokens: 2}\n",
        "s.yaml",
    )
    cells = list(suite.cells())
    assert len(cells) == len(set(cells)) == 3 * 2 * 2 * 2
    assert {c.checkpoint for c in cells} == {"a", "b", "c"}
    assert {(c.weight_precision, c.compute_precision) for c in cells} == {("fp32", None), ("int8", "bf16")}


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        (MINIMAL + "bakends: [x]\n", 6, "Did you mean backends?"),
        (MINIMAL.replace("output_tokens", "outputtokens"), 5, "Did you mean output_tokens"),
        (MINIMAL.replace("8", "0"), 4, "greater than 0"),
        (MINIMAL + "precisions: [fp31]\n", 6, "unknown precision 'fp31'"),
        (MINIMAL + "devices: [tpu]\n", 6, "cpu"),
        ("name: [\n", 2, "not YAML"),
        ("- a\n", 1, "mapping"),
        ("a: &x [1]\nb: *x\n", 2, "aliases"),
        ("[" * 50, 1, "nested deeper"),
    ],
)
def test_errors_name_file_line_and_key(text: str, line: int, part: str) -> None:
    with pytest.raises(BadInputError) as caught:
        parse_suite(text, "s.yaml")
    assert str(caught.value).startswith(f"s.yaml:{line}:")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_cases_are_refused() -> None:
    many = parse_suite(MINIMAL.replace("8", str(list(range(1, 1001)))), "s").model_copy(
        update={"checkpoints": [f"c{i}" for i in range(MAX_CASES // 1000)]}
    )
    with pytest.raises(BadInputError, match="200,000 cases"):
        next(many.cells())


def test_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(BadInputError, match="Did you mean quick"):
        load_suite("quik")


@pytest.mark.parametrize(("text", "expected"), [("int4", ("int4", None)), ("bf16/fp32", ("bf16", "fp32"))])
def test_a_compute_precision_may_be_left_to_the_backend(text: str, expected: tuple[str, str | None]) -> None:
    assert parse_precision(text) == expected


@given(st.text(max_size=300))
def test_any_text_is_a_suite_or_one_line(text: str) -> None:
    try:
        assert isinstance(parse_suite(text, "x.yaml"), Suite)
    except BadInputError as error:
        assert str(error).startswith("x.yaml")  # noqa: PT017 (either outcome is fine)


def test_a_scale_keeps_the_ratios_and_merges_what_becomes_equal() -> None:
    full = load_suite("return-of-the-encoder")
    small = full.scaled("small")
    assert small.pairs == [("mu-small", "dec-small")]
    assert small.workloads[0].input_tokens == [n // 4 for n in full.workloads[0].input_tokens]
    assert small.workloads[0].output_tokens == [1, 4, 16, 32]
    with pytest.raises(BadInputError, match="no scale 'tiny'"):
        full.scaled("tiny")


def test_shipped_scales_name_checkpoints_of_their_suite() -> None:
    for name in suite_names():
        suite = load_suite(name)
        for scale in suite.scales.values():
            assert set(scale.checkpoints) <= set(suite.all_checkpoints()), name


def workloads(*lines: str) -> str:
    return "name: s\ncheckpoints: [t5-tiny]\nworkloads:\n  - input_tokens: 8\n    output_tokens: 4\n" + "".join(
        f"    {line}\n" for line in lines
    )


def test_turns_samples_and_the_cache_are_said_by_a_suite() -> None:
    suite = parse_suite(workloads("answers: [1, 4]", "sampling: [greedy, random]", "cache: on"), "x.yaml")
    labels = list(dict.fromkeys(cell.workload.label() for cell in suite.cells()))
    assert labels == [f"in8-out4-b1{end}" for end in ("", "-random", "-s4", "-s4-random")]
    # YAML reads on and off as true and false.
    ablation = parse_suite(workloads("cache: [on, off]"), "x.yaml")
    assert {cell.workload.cache for cell in ablation.cells()} == {"on", "off"}
    talk = parse_suite(workloads("turns: 3", "added_tokens: 2"), "x.yaml")
    assert {cell.workload.turns for cell in talk.cells()} == {3}


def test_what_workloads_cannot_be_is_told_with_its_line() -> None:
    with pytest.raises(BadInputError, match=r"^x\.yaml:4: workloads\.0: 3 turns: `added_tokens` says"):
        parse_suite(workloads("turns: 3"), "x.yaml")
    with pytest.raises(BadInputError, match=r"^x\.yaml:6: workloads\.0\.answer: unknown key.*answers"):
        parse_suite(workloads("answer: 3"), "x.yaml")


def test_more_cases_than_anyone_wants_are_refused_with_the_line() -> None:
    many = workloads(f"batch: [{', '.join(str(n) for n in range(1, 60_000))}]")
    with pytest.raises(BadInputError, match=r"^x\.yaml:3: workloads: .*expands to 119,998 cases"):
        list(parse_suite(many, "x.yaml").cells())
