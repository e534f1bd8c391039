"""A folder claimed for a run, or a place in it for a shard, before anything is drawn."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from signal import Signals

from hieramp.runtime.dataset import CLAIM, claim_folder, record_name, refuse_links, write_start
from hieramp.runtime.errors import RunError, StoppedError
from hieramp.runtime.lock import held, held_aside
from hieramp.runtime.redrawn import Redrawn
from hieramp.runtime.run import Run
from hieramp.runtime.signals import Stop
from hieramp.runtime.workplace import Say

_CLAIM_SECONDS, _LOOK_SECONDS = 300.0, 0.05  # a large dataset that is replaced takes long to delete


class _Turn:
    """The turn of a shard to claim the folder, for which it waits."""

    def __init__(self, stop: Stop, say: Say):
        self._stop, self._say, self._began = stop, say, 0.0

    def wait(self, place: Path) -> None:
        """Look again soon; raises a RunError where others take too long, a StoppedError where the run was stopped."""
        if not self._began:
            self._began = time.monotonic()
            self._say(f"waiting for another shard that is about to begin in {place.parent}")
        if (number := self._stop()) is not None:
            raise StoppedError(f"stopped by {Signals(number).name} while waiting for another shard to begin; give the "
                               "same command again to continue", 128 + number)
        if time.monotonic() - self._began > _CLAIM_SECONDS:
            raise RunError(f"another shard has been about to begin in {place.parent} for {_CLAIM_SECONDS:.0f} s; "
                           "nothing was written: give the same command again")
        time.sleep(_LOOK_SECONDS)


@contextmanager
def claimed(run: Run, stop: Stop, say: Say) -> Iterator[dict[int, Redrawn]]:
    """The folder held, or the place of a shard in it, and the record begun; gives what a safer plan drew before.

    What a folder holds is decided by one shard at a time: the next one finds the record of those before it.
    """
    job, shared = run.job, not run.job.shard.is_whole
    with held(job.out, shared), ExitStack() as until_done:
        with held_aside(job.out / CLAIM, _Turn(stop, say).wait) if shared else nullcontext():
            if shared:
                until_done.enter_context(held_aside(job.out / record_name(job.shard)))
            own = tuple(run.writer.folders())
            refuse_links(own)
            claim_folder(job.out, run.recipe, job.shard, job.overwrite, own)
            for line in run.how():
                say(line)
            write_start(job.out, run.recipe, run.classes, job.shard, redrawn := run.redrawn())
        yield redrawn
