"""What limits allow: shares of them, and shortest times."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import PAIR, Speed, make_run

from slmbench.analysis.metrics import model_of, side_of
from slmbench.analysis.roofline import bandwidth_use, compute_use, kv_bytes, shortest_times
from slmbench.cli import run_main
from slmbench.models import cost_model as explain
from slmbench.records.limits import BandwidthPoint, Limits, MatrixRate
from slmbench.records.sample_arrays import read_columns
from slmbench.report.sentences import pair_sentences

REFERENCE = Path(__file__).parents[2] / "results" / "reference"

MB, GB = 10**6, 10**9


def make(*points: tuple[float, float], **matrix: float) -> Limits:
    return Limits(
        engine="e",
        device="cpu",
        threads=2,
        versions={},
        machine="m",
        measured="2026-01-01",
        bandwidth=tuple(BandwidthPoint(footprint_bytes=int(f), bytes_per_s=b) for f, b in points),
        matrix={"fp32": MatrixRate(flops_per_s=matrix["fp32"], effective="fp32")} if matrix else {},
    )


def test_decoding_from_memory_is_held_against_memory() -> None:
    use = bandwidth_use(540 * MB, 25e6, make((32 * MB, 60 * GB), (512 * MB, 27 * GB)))
    assert use is not None
    assert use.share == pytest.approx(0.8)
    assert use.explanation is None


def test_weights_in_the_cache_are_held_against_the_bandwidth_at_their_size_and_said_to_be() -> None:
    use = bandwidth_use(32 * MB, 1e6, make((32 * MB, 50 * GB), (512 * MB, 25 * GB)))
    assert use is not None
    assert use.share == pytest.approx(0.64)
    assert "the cache holds them at least in part" in (use.explanation or "")


@pytest.mark.parametrize("size", [1 * MB, 32 * MB, 100 * MB, 512 * MB, 4 * GB])
@pytest.mark.parametrize("tpot_ns", [1e4, 1e6, 1e8])
def test_no_share_beyond_one_without_an_explanation(size: int, tpot_ns: float) -> None:
    use = bandwidth_use(size, tpot_ns, make((32 * MB, 50 * GB), (512 * MB, 25 * GB)))
    assert use is not None
    assert use.share <= 1 or "--again` measures it again" in (use.explanation or "")


def test_between_two_sizes_the_bandwidth_is_interpolated_and_never_rises_with_size() -> None:
    limits = make((8 * MB, 20 * GB), (32 * MB, 60 * GB), (128 * MB, 40 * GB), (512 * MB, 25 * GB))
    sizes = [1, 8 * MB, 16 * MB, 32 * MB, 64 * MB, 128 * MB, 256 * MB, 512 * MB, 5 * GB]
    found = [limits.bandwidth_at(size) / GB for size in sizes]
    assert found == pytest.approx([60, 60, 60, 60, 50, 40, 32.5, 25, 25])


def test_compute_use_needs_the_rate_of_that_precision() -> None:
    limits = make((MB, GB), fp32=2e12)
    assert compute_use(1e12, 1e9, limits, "bf16") is None
    half = compute_use(1e12, 1e9, limits, "fp32")
    assert half is not None
    assert half.share == pytest.approx(0.5)
    assert half.explanation is None
    double = compute_use(4e12, 1e9, limits, "fp32")
    assert double is not None
    assert double.share == pytest.approx(2.0)
    assert "above the limit" in (double.explanation or "")


@pytest.mark.parametrize(("size", "ns"), [(0, 1e6), (MB, 0)])
def test_nothing_to_divide_is_empty(size: float, ns: float) -> None:
    assert bandwidth_use(size, ns, make((MB, GB))) is None
    assert compute_use(size, ns, make((MB, GB), fp32=1.0), "fp32") is None


def test_a_step_that_waits_for_memory_takes_its_bytes_over_the_bandwidth() -> None:
    for info in make_run(PAIR).record.cases:
        found = shortest_times(info, make((MB, 10 * GB), fp32=1e18))
        moved = model_of(info, [], {}).step_bytes
        assert moved is not None
        assert found["tpot"] == pytest.approx(moved / (10 * GB))


def test_a_prompt_that_waits_for_arithmetic_takes_its_operations_over_the_rate() -> None:
    for info in make_run(PAIR).record.cases:
        found = shortest_times(info, make((MB, 1e18), fp32=1e12))
        flops = [phase.flops for phase in explain.phases(info.checkpoint, info.case.workload)]
        assert found["ttft"] == pytest.approx(sum(flops[:-1]) / 1e12)
        assert found["tpot"] == pytest.approx(flops[-1] / 1e12)


def test_without_a_rate_for_the_precision_or_the_bytes_of_a_step_nothing_is_known() -> None:
    info = make_run(PAIR).record.cases[0]
    assert shortest_times(info, make((MB, GB))) == {}
    assert shortest_times(info.model_copy(update={"decode_weight_bytes": None}), make((MB, GB), fp32=1e12)) == {}


def test_a_pair_is_told_what_the_limits_alone_give(tmp_path: Path) -> None:
    limits = make((MB, 100 * GB), fp32=1e18).model_dump(mode="json")
    run = read_columns(make_run(PAIR, limits={"openvino|cpu": limits}).write(tmp_path / "run"))
    bytes_moved = [model_of(info, [], {}).step_bytes or 0 for info in run.record.cases]
    (sentence,) = pair_sentences(run)
    assert f"decoding {bytes_moved[1] / bytes_moved[0]:.2f}x)" in sentence
    assert "the device's limits alone give first token" in sentence
    (plain,) = pair_sentences(read_columns(make_run(PAIR).write(tmp_path / "plain")))
    assert "limits" not in plain
    # No path is faster than what must be moved and computed: limits that say so are marked.
    low = make((MB, GB), fp32=1e18).model_dump(mode="json")
    (marked,) = pair_sentences(read_columns(make_run(PAIR, limits={"openvino|cpu": low}).write(tmp_path / "low")))
    assert "limits alone (measured too low: a figure is faster than they allow) give" in marked


@pytest.mark.parametrize("run", sorted(path.name for path in REFERENCE.iterdir()))
def test_no_committed_figure_is_faster_than_the_limits_allow(run: str) -> None:
    """The bound is one: checked on every sample that is in the repository."""
    cases = side_of(read_columns(REFERENCE / run, keep_tokens=False), run).cases.values()
    shares = [
        case.model.shortest_s[metric] / case.evidence[metric].interval().mid
        for case in cases
        for metric in case.model.shortest_s
        if metric in case.evidence
    ]
    assert shares
    assert 0 < min(shares) <= max(shares) <= 1


@pytest.mark.parametrize(
    ("format_", "compute", "size"),
    [("onnx", "int8", 4.0), ("gguf", "int8", 2.0), ("gguf", "fp32", 4.0), ("gguf", "bf16", 2.0)],
)
def test_kv_of_llama_cpp_are_in_half_precision_beside_8_bit_products(format_: str, compute: str, size: float) -> None:
    case = Speed().case.model_copy(update={"format": format_, "compute_precision": compute})
    assert kv_bytes(case) == size


@pytest.mark.parametrize(("asked", "size"), [("u8", 1), ("f16", 2), ("bf16", 2), ("f32", 4), ("U8", 1)])
def test_the_bytes_of_a_step_follow_the_option_for_kv(asked: str, size: int, tmp_path: Path) -> None:
    """From a run's files: the bytes that bandwidth_use divides by shrink by the K/V's share alone."""
    speed = Speed(options=(("kv_cache", asked),))
    (info,) = read_columns(make_run([speed]).write(tmp_path / "asked")).record.cases
    (plain,) = read_columns(make_run([Speed()]).write(tmp_path / "plain")).record.cases
    step = explain.phases(plain.checkpoint, plain.case.workload, kv_bytes=1.0)[-1]
    elements = step.kv_read_bytes + step.kv_written_bytes
    moved, before = (model_of(one, [], {}).step_bytes or 0 for one in (info, plain))
    assert before - moved == pytest.approx(elements * (4 - size))


@pytest.mark.parametrize("cores", [0.0, 0.8])
def test_the_table_says_that_limits_were_measured_on_a_busy_machine(
    cores: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {**make((MB, 10 * GB), fp32=1e12).model_dump(mode="json", exclude={"disturbed"}), "foreign_load": cores}
    run = make_run(PAIR, limits={"openvino|cpu": limits}).write(tmp_path / "run")
    assert run_main(["table", str(run), "--markdown"]) == 0
    text = capsys.readouterr().out
    said = "too low, as other processes used 0.8 cores while it was measured: `slmbench limits --backend"
    # Once for both columns; the command in it can be copied.
    assert text.count(said) == (cores > 0)
    assert ("bandwidth use and compute use, " in text) == (cores > 0)
    assert "\\`" not in text
