"""The sizes that graphs leave open, or that a graph of one fixed scale has as numbers."""

from dataclasses import dataclass

from hieramp.export.graph import Dimension
from hieramp_ref.spec import ModelSpec


@dataclass(frozen=True)
class Dimensions:
    """Sizes that vary from batch to batch and from scale to scale: symbols, or numbers in a static graph."""

    B: Dimension = "B"
    R: Dimension = "R"
    l: Dimension = "l"
    past: Dimension = "past"
    c: Dimension = "c"
    l_next: Dimension = "l_next"


def static_dimensions(spec: ModelSpec, scale: int, batch: int) -> Dimensions:
    """The sizes of one scale."""
    last = scale + 1 == spec.scale_count
    return Dimensions(
        B=batch, R=2 * batch, l=spec.scale_tokens[scale], past=spec.token_range(scale)[0],
        c=int(scale in spec.var.class_token_scales), l_next=1 if last else spec.scale_tokens[scale + 1],
    )
