"""What a run shows while it goes: a bar on stderr, or lines of JSON on stdout."""

import json
from dataclasses import asdict
from typing import Any

from hieramp.runtime.progress import Progress


class Bar:
    """An observer with images a second and the time left; shown on terminals only."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, progress: Progress) -> None:
        from tqdm import tqdm

        if self._bar is None and progress.complete:
            return
        if self._bar is None:
            self._bar = tqdm(total=progress.total, initial=progress.done, unit="img", disable=None)
        self._bar.update(progress.done - self._bar.n)
        if progress.complete:
            self.close()

    def close(self) -> None:
        """Leave the bar as it is; what is printed next has a line of its own."""
        if self._bar is not None:
            self._bar.close()


def batch_line(progress: Progress) -> str:
    """The event of a batch as one line of JSON; `worker` is in it where one on a cluster drew the batch."""
    left = progress.seconds_left
    dropped = {"complete"} if progress.worker else {"complete", "worker"}
    values = {name: value for name, value in asdict(progress).items() if name not in dropped}
    return json.dumps({"event": "batch", **values, "seconds": round(progress.seconds, 3),
                       "images_per_second": round(progress.images_per_second, 3),
                       "seconds_left": None if left is None else round(left, 3)})
