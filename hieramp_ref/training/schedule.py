"""Learning-rate factors over the progress of a run, 0 at its beginning and 1 at its end."""

import math

FLOOR = 0.02
DECAY_FROM = 0.6


def progress(step: int, steps: int | None, elapsed: float, minutes: float | None) -> float:
    """How much of a run is done: by steps or by the clock, whichever is further."""
    by_steps = step / steps if steps else 0.0
    by_clock = elapsed / (60 * minutes) if minutes else 0.0
    return max(by_steps, by_clock)


def warm_up(step: int, steps: int) -> float:
    """Linear rise over the first steps."""
    return min(1.0, (step + 1) / steps) if steps else 1.0


def cosine(done: float) -> float:
    """Half a cosine from 1 to `FLOOR`."""
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def trapezoid(done: float) -> float:
    """Constant, then linear decay to `FLOOR` from `DECAY_FROM` on; a run of any length shares its constant part."""
    decay = min(max(done - DECAY_FROM, 0.0) / (1 - DECAY_FROM), 1.0)
    return 1 - (1 - FLOOR) * decay
