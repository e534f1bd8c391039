"""When the stages of a batch begin: condition, each scale, decoder. A stage lasts until the next one begins.

So what lies between two calls (sampling in the reference, NumPy in the runtime) counts towards the stage before it.
Threads that draw beside one another have stages of their own.
"""

import time
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any

Timer = Callable[[], float]


class StageClock:
    """Wraps the functions that begin a stage; `batch` measures what runs inside it."""

    def __init__(self, timer: Timer = time.perf_counter, cpu_timer: Timer = time.process_time,
                 settle: Callable[[], object] = lambda: None) -> None:
        """`settle` waits for a device, so that a time is that of the work and not of its queueing."""
        self._timer, self._cpu_timer, self._settle = timer, cpu_timer, settle
        self._begun: list[tuple[str, float, int]] = []

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, noting its begin as one of `stage`."""
        def timed(*arguments: Any, **options: Any) -> Any:
            self._settle()
            self._begun.append((stage, self._timer(), get_ident()))
            return function(*arguments, **options)
        return timed

    def batch(self, draw: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
        """What `draw` gives, with seconds, seconds of processor time of all threads, and seconds by stage in order.

        Of several threads (`lanes`) those of one follow those of another, each until all are done.
        """
        self._begun.clear()
        self._settle()
        begin, cpu_begin = self._timer(), self._cpu_timer()
        drawn = draw()
        self._settle()
        end, cpu_end = self._timer(), self._cpu_timer()
        lanes = dict.fromkeys(lane for _, _, lane in self._begun)
        stages = []
        for lane in lanes:
            begun = [(stage, moment) for stage, moment, where in self._begun if where == lane]
            ends = [*(moment for _, moment in begun[1:]), end]
            stages += [[stage, until - since] for (stage, since), until in zip(begun, ends, strict=True)]
        return drawn, {"seconds": end - begin, "cpu_seconds": cpu_end - cpu_begin, "stages": stages,
                       "lanes": max(1, len(lanes))}


def over_parts(stages: list[list[Any]], lanes: int = 1) -> list[list[Any]]:
    """Seconds of each stage summed over the parts of a batch, every one of which begins with the first stage.

    Of parts that were drawn beside one another in lanes it is their mean, so that all stages make up the batch.
    """
    if not stages:
        return stages
    count = len(stages) // sum(stage == stages[0][0] for stage, _ in stages)
    return [[stages[first][0], sum(seconds for _, seconds in stages[first::count]) / lanes] for first in range(count)]


class TimedBackend:
    """A back end of the runtime whose calls begin stages."""

    def __init__(self, backend: Any, clock: StageClock, model: Any) -> None:
        from hieramp.runtime.steps import draw_by_steps  # whose loading is timed, so it must not be loaded before

        self.draw = partial(draw_by_steps, self, model)
        self.new_cache, self.step_cache = backend.new_cache, backend.step_cache
        self.images_at_once = backend.images_at_once
        self.condition = clock.wrap("condition", backend.condition)
        self.step = clock.wrap("scale", backend.step)
        self.decode = clock.wrap("decoder", backend.decode)
