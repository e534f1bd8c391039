"""Threads of the pipeline; what it writes and when is tested where runs are: test_faults.py and test_resume.py."""

import pytest

from hieramp.runtime.pipeline import encoder_threads


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (2, 2), (4, 2), (6, 3), (16, 8), (64, 8)])
def test_encoders_are_half_of_the_cores_from_two_to_eight(cores: int, threads: int) -> None:
    assert encoder_threads(cores) == threads
