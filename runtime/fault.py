"""A picture that came out not finite: where NaN or infinity was seen first, in which precision, and the way out."""

from collections.abc import Sequence
from dataclasses import dataclass

SAFEST_PRECISION = "fp32"


@dataclass(frozen=True)
class Fault:
    """One such picture; `scale` is None where only the decoded image is not finite.

    `label` is the model's own number of its class and `name` that class's name, where it is known. `again` is the fault
    of the second try, in a safer precision, where there was one.
    """

    label: int
    index: int
    seed: int
    place: str
    scale: int | None
    precision: str
    name: str = ""
    again: "Fault | None" = None

    @property
    def where(self) -> str:
        """The tensor, in words."""
        return f"the {self.place}" if self.scale is None else f"the {self.place} of scale {self.scale}"

    @property
    def sentence(self) -> str:
        """Picture, place and precision of every try."""
        kind = f"{self.label} {self.name!r}" if self.name else str(self.label)
        again = f", and again in {self.again.where}, precision {self.again.precision}" if self.again else ""
        return (f"picture {self.index} of class {kind} (seed {self.seed}) is not finite: NaN or infinity in "
                f"{self.where}, precision {self.precision}{again}")


def describe(faults: Sequence[Fault]) -> str:
    """One line on the faults of a batch, with the way out."""
    first, more = faults[0], len(faults) - 1
    others = f"; so {'is' if more == 1 else 'are'} {more} more of its batch" if more else ""
    last = first.again or first
    advice = "try smaller --cfg and --beta, which makes another dataset"
    if last.precision != SAFEST_PRECISION:
        advice = ("with --safer-plan PLAN, a plan of the same model exported with --precision fp32, the same command "
                  f"goes on; or {advice}")
    return f"{first.sentence}{others}; {advice}"
