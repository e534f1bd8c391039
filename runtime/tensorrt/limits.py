"""How much the engines of a plan take at a time, as their profiles say."""

from collections.abc import Iterable

from hieramp.runtime.gpu.errors import EngineError
from hieramp.runtime.gpu.limits import Limits
from hieramp.runtime.tensorrt.sidecar import Sidecar

_COUNTS_IMAGES = {"condition": "labels", "scale_step": "uniform", "decoder": "f_hat"}


def limits_of(sidecars: Iterable[Sidecar]) -> Limits:
    """The limits that all of these engines keep."""
    images: list[int] = []
    top_k: list[int] = []
    for sidecar in sidecars:
        for profile in sidecar.profiles:
            counting = profile.shapes.get(_COUNTS_IMAGES[sidecar.graph])
            if counting is None or not counting.max:
                raise EngineError(f"the sidecar of {sidecar.graph} has a profile without "
                                  f"{_COUNTS_IMAGES[sidecar.graph]}; build the engine again")
            images.append(counting.max[0])
            top_k += profile.values["top_k"].max[:1] if "top_k" in profile.values else ()
    return Limits(min(images, default=0), min(top_k, default=None))
