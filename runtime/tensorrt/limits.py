"""How much the engines of a plan take at a time, as their profiles say."""

from collections.abc import Iterable
from dataclasses import dataclass

from hieramp.runtime.tensorrt.errors import EngineError
from hieramp.runtime.tensorrt.sidecar import Sidecar

_COUNTS_IMAGES = {"condition": "labels", "scale_step": "uniform", "decoder": "f_hat"}


@dataclass(frozen=True)
class Limits:
    """Most images at a time, and the largest top_k; None where it decides no shape and so has no limit."""

    images: int
    top_k: int | None

    def problem(self, images: int, top_k: int) -> str | None:
        """What is too much, if anything is."""
        if images > self.images:
            return f"takes at most {self.images} images at a time, and {images} are wanted"
        if self.top_k is not None and top_k > self.top_k:
            return f"takes a top_k of at most {self.top_k}, and {top_k} is wanted"
        return None

    def check(self, images: int, top_k: int) -> None:
        """Raise an EngineError that names the way out where something is too much."""
        if problem := self.problem(images, top_k):
            way_out = "use a smaller --batch-size or build with a larger --max-batch" if images > self.images else (
                f"use --top-k {self.top_k} or less, or --backend onnxruntime")
            raise EngineError(f"the engine {problem}; {way_out}")


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
