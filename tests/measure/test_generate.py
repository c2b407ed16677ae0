"""What the timed loop stamps, and what it refuses."""

from __future__ import annotations

import gc
import time

import numpy as np
import pytest

from slmbench.errors import CannotRunError
from slmbench.measure.generate import ShortGenerationError, generate


class Common:
    def reserve(self, batch, input_tokens, output_tokens):
        pass

    def placement(self):
        raise AssertionError("not asked for while timing")

    def compute_precision(self):
        return "fp32"

    def threads(self):
        return 1

    def attention_path(self):
        return ""

    def load_phases_ns(self):
        return {}

    def close(self):
        pass


class Stepper(Common):
    """10 ms to the first token, 2 ms to each further one; one buffer for all answers, as engines have."""

    def __init__(self, eos_at: int | None = None) -> None:
        self.buffer = np.zeros(2, np.int64)
        self.eos_at = eos_at
        self.collecting: list[bool] = []
        self.steps = 0

    def start(self, input_ids, attention_mask=None):
        time.sleep(0.010)
        self.steps = 0
        self.buffer[:] = 100
        return self.buffer

    def step(self, tokens):
        self.collecting.append(gc.isenabled())
        time.sleep(0.002)
        self.steps += 1
        self.buffer += 1
        if self.steps == self.eos_at:
            self.buffer[1] = 7
        return self.buffer

    def phases_ns(self):
        return {"encode": 1, "first_step": 2}


class Looper(Common):
    def __init__(self, gives: int) -> None:
        self.gives = gives

    def generate(self, input_ids, output_tokens):
        stamps = []
        for _ in range(self.gives):
            time.sleep(0.003)
            stamps.append(time.perf_counter_ns())
        return np.full((len(input_ids), self.gives), 9, np.int64), stamps


IDS = np.full((2, 5), 50, np.int64)


def test_stamps_count_from_the_call_of_start() -> None:
    made = generate(Stepper(), IDS, None, 6)
    assert len(made.token_ns) == 6
    assert 10e6 <= made.token_ns[0] < 30e6
    gaps = np.diff(made.token_ns)
    assert gaps.min() >= 2e6
    assert made.phases_ns == {"encode": 1, "first_step": 2}


def test_tokens_survive_a_session_that_reuses_its_buffer() -> None:
    made = generate(Stepper(), IDS, None, 4)
    assert made.tokens.tolist() == [[100, 101, 102, 103]] * 2


def test_no_collection_in_the_timed_region_and_as_before_after_it() -> None:
    session = Stepper()
    assert gc.isenabled()
    generate(session, IDS, None, 3)
    assert session.collecting == [False, False]
    assert gc.isenabled()


def test_one_token_needs_no_step() -> None:
    assert len(generate(Stepper(), IDS, None, 1).token_ns) == 1


def test_an_end_of_sequence_token_is_a_short_generation() -> None:
    with pytest.raises(ShortGenerationError, match=r"end of sequence at token 3 of 5 \(row 1\)"):
        generate(Stepper(eos_at=2), IDS, None, 5, eos_token_ids=(7,))


def test_an_engines_own_loop_is_counted() -> None:
    made = generate(Looper(4), IDS, None, 4)
    assert made.token_ns[0] >= 3e6
    assert np.diff(made.token_ns).min() >= 3e6
    with pytest.raises(ShortGenerationError, match="5 tokens asked, 4 given"):
        generate(Looper(4), IDS, None, 5)
    with pytest.raises(ShortGenerationError, match="3 tokens asked, 4 given"):
        generate(Looper(4), IDS, None, 3)


def test_an_engines_own_loop_takes_no_mask() -> None:
    with pytest.raises(CannotRunError, match="unequal length"):
        generate(Looper(4), IDS, np.ones_like(IDS), 4)
