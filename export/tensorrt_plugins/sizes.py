"""The sizes that the kernels of a plan are compiled for.

TensorRT keeps one kernel for each combination of types, whatever the optimization profile, and calls for its launch
parameters once a profile. So one kernel serves all scales of a plan: it is compiled for the largest, and masks what a
smaller one lacks.
"""

from dataclasses import dataclass

from hieramp.runtime.manifest import ModelShape


@dataclass(frozen=True)
class PluginSizes:
    """Tokens of the largest scale, channels of a head, and codebook entries."""

    tokens: int
    head_width: int
    vocab: int

    @classmethod
    def of(cls, model: ModelShape) -> "PluginSizes":
        """The sizes of a plan's model."""
        return cls(max(model.scale_tokens), model.head_width, model.vocab_size)
