"""What the coarse-to-fine loop asks of a back end: condition, step, decode, and caches that the caller holds."""

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hieramp.runtime.schedule import ScaleControls

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
CacheT = TypeVar("CacheT")


@dataclass(frozen=True)
class Conditioning:
    """What depends on the classes alone: AdaLN vectors of the blocks and the head, and the first token map."""

    adaln_Rd6C: FloatArray
    adaln_head_R2C: FloatArray
    token_map_RlC: FloatArray


@dataclass(frozen=True)
class StepInputs:
    """One coarse-to-fine step; `forced_Bl` holds tokens, or −1 where one is to be sampled."""

    token_map_RlC: FloatArray
    f_hat_BzPP: FloatArray
    uniform_Bl: FloatArray
    forced_Bl: IntArray
    controls: ScaleControls


@dataclass(frozen=True)
class StepOutputs:
    """The tokens drawn and what the next step starts from; the last two only when traced."""

    tokens_Bl: IntArray
    f_hat_BzPP: FloatArray
    token_map_RlC: FloatArray
    logits_RlV: FloatArray | None = None
    saliency_ARl: FloatArray | None = None


class Backend(Protocol[CacheT]):
    """Runs a plan's graphs. It keeps no state between calls: keys and values live in the cache it is given."""

    def new_cache(self, batch: int) -> CacheT:
        """Memory for the keys and values of `batch` images, to be used for one batch after another."""

    def condition(self, labels_B: IntArray) -> Conditioning:
        """Run the condition graph."""

    def step(self, cache: CacheT, scale: int, conditioning: Conditioning, inputs: StepInputs,
             trace: bool = False) -> StepOutputs:
        """Run one step, which reads the scales before it from the cache and adds its own."""

    def decode(self, f_hat_BzPP: FloatArray) -> FloatArray:
        """Images [B, 3, S, S] in [0, 1]."""

    def __enter__(self) -> "Backend[CacheT]": ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None: ...
