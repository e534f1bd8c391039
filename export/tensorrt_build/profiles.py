"""Optimization profiles of a plan's graphs: one a scale for the step, one for each of the other two.

Inside a profile of the step only the batch varies; sequence, cache and class tokens have the sizes of its scale.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hieramp.export.tensorrt_build.errors import BuildError
from hieramp.runtime.manifest import GraphSpec, Manifest, ModelShape
from hieramp.runtime.tensorrt.sidecar import Profile, Range

TOP_K_LIMIT = 3840  # the most that TensorRT's TopK takes; a larger maximum builds, and fails when it is used
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Batches:
    """How many images at a time an engine takes: from one to `max`, fastest at `opt`."""

    max: int = 32
    opt: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.opt <= self.max:
            raise BuildError(f"the batch to optimise for must be from 1 to the largest, {self.max}, got {self.opt}")


def graph_profiles(manifest: Manifest, graph: str, batches: Batches, plugins: bool = False) -> tuple[Profile, ...]:
    """The profiles of one graph; of the step, profile k is that of scale k.

    In the body of the sampler the value of `top_k` is a shape, so it has limits; with plugins it is only data.
    """
    spec = manifest.graphs[graph]
    if graph != "scale_step":
        return (_profile(spec, None, {}, batches, {}),)
    values = {} if plugins else {"top_k": _top_k_range(manifest)}
    return tuple(_profile(spec, scale, scale_sizes(manifest.model, scale), batches, values)
                 for scale in range(manifest.model.scale_count))


def scale_sizes(model: ModelShape, scale: int) -> dict[str, int]:
    """The symbols of docs/plan-format.md whose size a scale decides."""
    last = scale + 1 == model.scale_count
    return {
        "l": model.scale_tokens[scale],
        "past": model.token_range(scale)[0],
        "c": int(scale in model.class_token_scales),
        "l_next": 1 if last else model.scale_tokens[scale + 1],
    }


def _profile(
    spec: GraphSpec, scale: int | None, fixed: Sizes, batches: Batches, values: dict[str, Range]
) -> Profile:
    def shapes(batch: int) -> dict[str, tuple[int, ...]]:
        sizes = {"B": batch, "R": 2 * batch, **fixed}
        return {tensor.name: _shape(spec, tensor.shape, sizes) for tensor in spec.inputs}

    low, usual, high = shapes(1), shapes(batches.opt), shapes(batches.max)
    return Profile(scale, {name: Range(low[name], usual[name], high[name]) for name in low}, values)


def _shape(spec: GraphSpec, shape: tuple[int | str, ...], sizes: Sizes) -> tuple[int, ...]:
    unknown = [symbol for symbol in shape if isinstance(symbol, str) and symbol not in sizes]
    if unknown:
        raise BuildError(f"{spec.file} has a dimension {unknown[0]!r} of unknown size; export the plan again")
    return tuple(sizes[size] if isinstance(size, str) else size for size in shape)


def _top_k_range(manifest: Manifest) -> Range:
    largest = min(manifest.model.vocab_size, TOP_K_LIMIT)
    return Range((1,), (min(manifest.sampling.top_k, largest),), (largest,))
