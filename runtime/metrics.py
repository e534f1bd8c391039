"""Progress as a text file in the exposition format of Prometheus, for the textfile collector of its node exporter."""

import time
from pathlib import Path

from hieramp.runtime.durable import write_text
from hieramp.runtime.progress import Progress


class MetricsFile:
    """An observer that replaces the file after every batch, so that a reader always sees a whole one."""

    def __init__(self, path: Path):
        self._path = path

    def __call__(self, progress: Progress) -> None:
        write_text(metrics_text(progress, time.time()), self._path, sync=False)


def metrics_text(progress: Progress, now: float) -> str:
    """The text; `now` in seconds since 1970."""
    rows = [
        ("pictures", "Pictures that this run is to leave behind.", progress.total),
        ("pictures_done", "Pictures drawn by this run and earlier ones.", progress.done),
        ("pictures_drawn", "Pictures drawn by this run.", progress.drawn),
        ("pictures_redrawn", "Pictures drawn by this run that a safer plan had to draw.", progress.redrawn),
        ("run_seconds", "Seconds since this run began to draw.", round(progress.seconds, 3)),
        ("images_per_second", "Pictures drawn per second by this run.", round(progress.images_per_second, 6)),
        ("complete", "1 once everything is written.", int(progress.complete)),
        ("last_update_timestamp_seconds", "When this file was written.", round(now, 3)),
    ]
    return "".join(f"# HELP hieramp_{name} {text}\n# TYPE hieramp_{name} gauge\nhieramp_{name} {value}\n"
                   for name, text, value in rows)
