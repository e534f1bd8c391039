"""Everything of a run that writes: pictures, records, contact sheet and card, each of them whole."""

import errno
import io
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from signal import Signals

import numpy as np

from hieramp.runtime.card import card_text
from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.claiming import claimed
from hieramp.runtime.contact_sheet import MOST_COLUMNS, MOST_ROWS, draw_contact_sheet
from hieramp.runtime.dataset import (
    CARD,
    CONTACT_SHEET,
    write_end,
    write_redrawn,
)
from hieramp.runtime.durable import make_folders, write_text
from hieramp.runtime.errors import HierampError, NotFiniteError, RunError, StoppedError
from hieramp.runtime.images import save_png
from hieramp.runtime.pipeline import write_units
from hieramp.runtime.progress import Observer, Progress
from hieramp.runtime.record import Record
from hieramp.runtime.redrawn import Redrawn, remove_outdated
from hieramp.runtime.run import Run
from hieramp.runtime.signals import Stop
from hieramp.runtime.soft_labels import agreement, looks_wrong
from hieramp.runtime.teacher import Teacher
from hieramp.runtime.workplace import Say, Studio

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_log = logging.getLogger(__name__)


def make(run: Run, studio: Studio, observers: Sequence[Observer], stop: Stop, say: Say) -> Progress:
    """Everything that writes; a folder that is not free for this run is left as it was."""
    with _named_failures(run.job.out):
        make_folders([run.job.out])
        with claimed(run, stop, say) as redrawn, _on_the_way():
            make_folders(run.writer.folders())
            progress = _draw(run, studio, redrawn, observers, stop)
            _finish(run, redrawn, say)
        progress = replace(progress, complete=True)
        tell(observers, progress)
    return progress


def _draw(run: Run, studio: Studio, redrawn: dict[int, Redrawn], observers: Sequence[Observer],
          stop: Stop) -> Progress:
    """Draw and write the units that are not there; `redrawn` is kept up to date."""
    todo = [unit for unit in run.units() if not run.is_written(unit)]
    total, left = run.pictures(), sum(len(unit.pictures) for unit in todo)
    _log.info("%d of %d pictures are to be drawn into %s", left, total, run.job.out)
    began, progress = time.perf_counter(), Progress(total, total - left, 0, 0.0)

    def goes_on(batch: int, pictures: int) -> bool:
        nonlocal progress
        again = tuple(redrawn[number] for number in run.recipe.batches.numbers(batch) if number in redrawn)
        progress = replace(progress, done=progress.done + pictures, drawn=progress.drawn + pictures,
                           seconds=time.perf_counter() - began, batch=batch, worker=studio.worker(batch),
                           redrawn=progress.redrawn + len(again), again=again)
        tell(observers, progress)
        return progress.done == total or stop() is None

    tell(observers, progress)
    studio.expect([batch for unit in todo for batch in unit.batches])
    write_units(run.writer, todo, partial(_paint, run, studio, redrawn), goes_on)
    if progress.done < total and (number := stop()) is not None:
        raise StoppedError(f"stopped by {Signals(number).name} with {progress.done} of {total} pictures drawn; "
                           "give the same command again to continue", 128 + number)
    return replace(progress, seconds=time.perf_counter() - began, batch=None, worker=None, again=())


def _paint(run: Run, studio: Studio, redrawn: dict[int, Redrawn], batch: int) -> Sequence[Record]:
    """The pictures of a batch, noted and with soft labels where there is a teacher."""
    try:
        records = studio.paint(batch)
    except NotFiniteError as error:
        _note(run, redrawn, error.others)
        raise NotFiniteError(str(error), _labelled(run.teacher, error.others)) from error
    _note(run, redrawn, records)
    return _labelled(run.teacher, records)


def _note(run: Run, redrawn: dict[int, Redrawn], records: Iterable[Record]) -> None:
    """Say in the record what a safer plan drew, before any of it is written."""
    before, drawn = dict(redrawn), {record.number: record.redrawn for record in records}
    remove_outdated(redrawn, drawn, run.files_of)
    for number, by in drawn.items():
        if run.has_picture(number):
            continue
        redrawn.pop(number, None)
        redrawn.update({number: by} if by else {})
    if redrawn != before:
        write_redrawn(run.job.out, run.recipe, run.job.shard, redrawn)


def _labelled(teacher: Teacher | None, records: Sequence[Record]) -> Sequence[Record]:
    """With soft labels where there is a teacher."""
    if teacher is None or not records:
        return records
    logits_BV = teacher.logits(np.stack([record.image_SS3 for record in records]))
    return [replace(record, soft_V=soft_V) for record, soft_V in zip(records, logits_BV, strict=True)]


def tell(observers: Iterable[Observer], progress: Progress) -> None:
    """Let every observer know how far it is."""
    for observer in observers:
        observer(progress)


def _finish(run: Run, redrawn: Mapping[int, Redrawn], say: Say) -> None:
    """Contact sheet and card of a whole dataset, then the record that says it is complete, last of all."""
    job, share = run.job, _agreement(run, say) if run.teacher and run.job.shard.is_whole else None
    if job.shard.is_whole:
        save_png(draw_contact_sheet(_thumbnails(run)), job.out / CONTACT_SHEET)
        card = card_text(run.plan, run.recipe, run.classes, CONTACT_SHEET, run.target.unit_count, share, redrawn)
        write_text(card, job.out / CARD)
    write_end(job.out, run.recipe, job.shard, redrawn, share)


def _agreement(run: Run, say: Say) -> float:
    """How often the teacher calls a picture by its class, from what is stored, whoever drew it."""
    share, count = agreement(run.writer.soft_labels(run.units()), run.recipe.ipc), len(run.classes)
    if looks_wrong(share, count):
        say(f"warning: the teacher calls {share:.1%} of the pictures by the class they were drawn as, guessing would "
            f"{1 / count:.1%}: its outputs are in another order than its list says, or it does not know such pictures")
    return share


def _thumbnails(run: Run) -> list[tuple[ClassEntry, list[io.BytesIO]]]:
    ipc, shown = run.recipe.ipc, min(run.recipe.ipc, MOST_COLUMNS)
    labels = range(len(run.classes))
    numbers = [label * ipc + index for label in labels[:MOST_ROWS] for index in range(shown)]
    pictures = [io.BytesIO(png) for png in run.writer.read(numbers)]
    return [(entry, pictures[label * shown:(label + 1) * shown]) for label, entry in enumerate(run.classes)]


@contextmanager
def _on_the_way() -> Iterator[None]:
    """Whatever stops a run that has begun to write, it failed on the way and was not refused: so says its exit code."""
    try:
        yield
    except HierampError as error:
        if error.exit_code == HierampError.exit_code:
            error.exit_code = RunError.exit_code
        raise


@contextmanager
def _named_failures(out: Path) -> Iterator[None]:
    """Errors of the system while a run writes, as one line with the way out."""
    try:
        yield
    except MemoryError as error:
        raise RunError(f"{str(error) or 'no memory left'}; what is written is whole: free some memory, and the same "
                       "command continues; or draw smaller batches into another --out with --batch-size") from error
    except OSError as error:
        where = error.filename or out
        advice = "make room there" if error.errno in _FULL else "put that right"
        raise RunError(f"{error.strerror or error}: {where}; what is written is whole: {advice}, and the same command "
                       "continues") from error
