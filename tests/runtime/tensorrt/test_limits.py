"""What profiles allow, and one line for what they do not."""

from types import SimpleNamespace
from typing import Any

import pytest

from hieramp.runtime.gpu.errors import EngineError
from hieramp.runtime.gpu.limits import Limits
from hieramp.runtime.tensorrt.limits import limits_of
from hieramp.runtime.tensorrt.sidecar import Profile, Range


def sidecar(graph: str, name: str, images: int, **values: int) -> Any:
    shape = Range((1, 9), (2, 9), (images, 9))
    own = {key: Range((1,), (1,), (most,)) for key, most in values.items()}
    return SimpleNamespace(graph=graph, profiles=(Profile(None, {name: shape}, own),))


def test_the_least_of_all_engines_counts() -> None:
    sidecars = [sidecar("condition", "labels", 32), sidecar("scale_step", "uniform", 16, top_k=3840),
                sidecar("decoder", "f_hat", 8)]
    assert limits_of(sidecars) == Limits(8, 3840)
    assert limits_of(sidecars[:1]) == Limits(32, None)


def test_a_profile_that_counts_no_images() -> None:
    with pytest.raises(EngineError, match="the sidecar of decoder has a profile without f_hat"):
        limits_of([sidecar("decoder", "x", 8)])


@pytest.mark.parametrize(("images", "top_k", "problem"), [
    (8, 3840, None), (9, 1, "takes at most 8 images at a time, and 9 are wanted"),
    (1, 4096, "takes a top_k of at most 3840, and 4096 is wanted"),
])
def test_what_is_too_much(images: int, top_k: int, problem: str | None) -> None:
    assert Limits(8, 3840).problem(images, top_k) == problem
    if problem is None:
        Limits(8, 3840).check(images, top_k)


def test_the_way_out() -> None:
    with pytest.raises(EngineError, match=r"the engine takes at most 8 .*; use a smaller --batch-size or build with a"):
        Limits(8, 3840).check(9, 4096)
    with pytest.raises(EngineError, match=r"; use --top-k 3840 or less, or --backend onnxruntime"):
        Limits(8, 3840).check(8, 4096)
    Limits(8, None).check(8, 10**6)
