"""A generated picture as a user takes it: pixels, label, what names it, and what it was made of."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.redrawn import Redrawn


@dataclass(frozen=True)
class Record:
    """One picture.

    `image_SS3` is uint8, `label` the position of its class among the chosen ones (`entry.index` is the model's own
    number), `index` its number within the class, `number` that within the dataset. `tokens_L` are the tokens of all
    scales in order; `saliency`, when asked for, has the maps [A, 2, l] of every scale (amplified blocks, guidance
    halves, positions). `soft_V` are the logits of a teacher, by label, where there is one. `redrawn` says what drew the
    picture where the plan itself could not.
    """

    image_SS3: NDArray[np.uint8]
    entry: ClassEntry
    label: int
    index: int
    number: int
    seed: int
    tokens_L: NDArray[np.int64]
    saliency: tuple[NDArray[np.float32], ...] = ()
    soft_V: NDArray[np.float32] | None = None
    redrawn: Redrawn | None = None

    def example(self) -> dict[str, Any]:
        """Image, label and index by name, as collating functions and `datasets` take them."""
        return {"image": self.image_SS3, "label": self.label, "index": self.index}
