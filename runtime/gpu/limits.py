"""How much a back end on a GPU takes at a time."""

from dataclasses import dataclass

from hieramp.runtime.gpu.errors import EngineError


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
