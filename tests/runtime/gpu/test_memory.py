"""Where tensors lie in an arena, counted by hand."""

from contextlib import ExitStack

import numpy as np
import pytest

from hieramp.runtime.gpu.cuda import Cuda
from hieramp.runtime.gpu.memory import Arena, Spec

from .stand_in_cuda import StandInCuda

SPECS = {"a": Spec((3,), "int64"), "none": Spec((0, 5)), "b": Spec((65,)), "c": Spec((4, 2, 16), "bfloat16")}


@pytest.fixture
def cuda() -> StandInCuda:
    return StandInCuda()


def test_tensors_follow_each_other_at_256_bytes(cuda: StandInCuda) -> None:
    with ExitStack() as owner:
        arena = Arena.allocate(Cuda(cuda), owner, SPECS, mirrored=True)
        assert arena.bytes == 256 + 256 + 512 + 256
        for name, offset in (("a", 0), ("none", 256), ("b", 512), ("c", 1024)):
            assert (arena[name].device - arena.device, (arena[name].host or 0) - arena.host) == (offset, offset)
    assert cuda.leaks == []


def test_views_write_the_mirror(cuda: StandInCuda) -> None:
    with ExitStack() as owner:
        arena = Arena.allocate(Cuda(cuda), owner, SPECS, mirrored=True)
        arena["a"].view()[:] = [1, 2, 3]
        assert arena["a"].host_bytes() == np.array([1, 2, 3], np.int64).tobytes()
        assert arena["none"].view().shape == (0, 5)


def test_without_a_mirror_there_is_no_view(cuda: StandInCuda) -> None:
    with ExitStack() as owner:
        arena = Arena.allocate(Cuda(cuda), owner, SPECS)
        assert arena["a"].host is None and arena["a"].host_bytes() == b""
        with pytest.raises(ValueError, match="no mirror"):
            arena["a"].view()


def test_rows_are_where_the_first_dimension_says(cuda: StandInCuda) -> None:
    with ExitStack() as owner:
        bound = Arena.allocate(Cuda(cuda), owner, SPECS)["c"]
        rows = bound.rows(1, 3)
        assert rows.spec == Spec((2, 2, 16), "bfloat16")
        assert rows.device == bound.device + 2 * 16 * 2
        assert bound.as_shape(5).spec == Spec((5,), "bfloat16")
