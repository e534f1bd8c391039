"""One run from a plan to a dataset: everything is checked before the first file is written, and every file is whole."""

import errno
import io
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from signal import Signals

import numpy as np

from hieramp.runtime.backend import IntArray
from hieramp.runtime.backend_choice import Choice, Needs
from hieramp.runtime.batches import Shard, Unit, units
from hieramp.runtime.card import card_text
from hieramp.runtime.catalogue import ClassEntry, load_catalogue
from hieramp.runtime.contact_sheet import MOST_COLUMNS, MOST_ROWS, draw_contact_sheet
from hieramp.runtime.dataset import (
    CARD,
    CLASSES,
    CONTACT_SHEET,
    check_writable,
    claim_folder,
    is_marked_complete,
    read_redrawn,
    record_name,
    recorded_agreement,
    refuse_links,
    write_end,
    write_redrawn,
    write_start,
)
from hieramp.runtime.durable import make_folders, write_text
from hieramp.runtime.edit import Edit, forced_tokens
from hieramp.runtime.edit_files import read_edit
from hieramp.runtime.errors import NotFiniteError, RunError, SettingsError, StoppedError, TeacherError
from hieramp.runtime.images import save_png
from hieramp.runtime.lock import held
from hieramp.runtime.pipeline import write_units
from hieramp.runtime.plan import Plan, shipped_plan
from hieramp.runtime.progress import Observer, Progress
from hieramp.runtime.recipe import Recipe, resolve_recipe, with_edit
from hieramp.runtime.record import Record
from hieramp.runtime.redrawn import Redrawn
from hieramp.runtime.safer import open_safer
from hieramp.runtime.schedule import Overrides
from hieramp.runtime.signals import Stop, never
from hieramp.runtime.soft_labels import agreement, looks_wrong
from hieramp.runtime.teacher import Teacher, open_teacher
from hieramp.runtime.verified import default_memory
from hieramp.runtime.workplace import Say, Studio, ThisProcess, Wishes, Workplace
from hieramp.runtime.writers.layouts import LAYOUTS, laid_out, target_of, with_layout, with_tokens
from hieramp.runtime.writers.picture_folder import is_there
from hieramp.runtime.writers.writer import Target, Writer

__all__ = ["Job", "Report", "run_job", "shipped_plan"]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a user asked for; None stands for the plan's own default, and for this machine where `ray` is None.

    `edit` is a picture or its tokens (.npz), of which `edit_mask` and `keep_scales` say what is kept, or all of that.
    """

    out: Path
    engine: Path | None = None
    classes: str | None = None
    ipc: int = 10
    seed: int = 0
    batch_size: int | None = None
    backend: str = "auto"
    provider: str | None = None
    threads: int | None = None
    overrides: Overrides = field(default_factory=Overrides)
    save_size: int | None = None
    overwrite: bool = False
    compute: str = "f32"
    verify: bool = False
    layout: str = "folder"
    shard_size: int | None = None
    shard: Shard = field(default_factory=Shard)
    teacher: Path | None = None
    teacher_classes: Path | None = None
    ray: str | None = None
    edit: Path | Edit | None = None
    edit_mask: Path | None = None
    keep_scales: int | None = None
    save_tokens: bool = False
    safer_plan: Path | None = None


@dataclass(frozen=True)
class Report:
    """What a folder holds after a run; `drawn` counts the pictures that this run drew, in `seconds`.

    `teacher_agreement` is the share of a whole dataset's pictures that the teacher calls by their class.
    `redrawn` counts those of the folder that a safer plan drew.
    """

    plan: str
    out: Path
    contact_sheet: Path | None
    pictures: int
    classes: int
    drawn: int
    seconds: float
    backend: str
    backend_choice: str
    teacher_agreement: float | None = None
    redrawn: int = 0

    @property
    def images_per_second(self) -> float:
        return self.drawn / self.seconds if self.drawn else 0.0


@dataclass(frozen=True)
class _Run:
    """A job with everything about it decided."""

    job: Job
    plan: Plan
    recipe: Recipe
    classes: tuple[ClassEntry, ...]
    choice: Choice
    target: Target
    writer: Writer
    teacher: Teacher | None

    def units(self) -> Iterator[Unit]:
        return units(self.recipe.batches, self.target.batches_a_unit, self.job.shard)

    def is_written(self, unit: Unit) -> bool:
        return all(map(is_there, self.writer.files(unit)))

    def has_picture(self, number: int) -> bool:
        """Whether the file that holds it is there, which is then left as it is."""
        unit = number // self.target.pictures_a_unit
        return self.is_written(Unit(unit, self.target.unit_count, range(0), range(number, number + 1)))

    def pictures(self) -> int:
        return sum(len(unit.pictures) for unit in self.units())

    def redrawn(self) -> dict[int, Redrawn]:
        """Its pictures that a safer plan drew, as the folder's records say."""
        redrawn = read_redrawn(self.job.out, self.recipe)
        own = {number for unit in self.units() for number in unit.pictures} if redrawn else set()
        return {number: picture for number, picture in redrawn.items() if number in own}

    def report(self, drawn: int, seconds: float) -> Report:
        sheet = self.job.out / CONTACT_SHEET if self.job.shard.is_whole else None
        name = self.plan.manifest.name
        return Report(name, self.job.out, sheet, self.pictures(), len(self.classes), drawn, seconds,
                      self.choice.backend, self.choice.sentence, recorded_agreement(self.job.out) if sheet else None,
                      len(self.redrawn()))


def run_job(job: Job, observers: Sequence[Observer] = (), stop: Stop = never,
            say: Say = lambda line: None) -> Report:
    """Generate the dataset, or what an earlier run has left to do; a complete one is left as it is.

    The observers are told of every batch, `say` which back end draws, and why. `stop` is asked after every batch and
    gives the number of a signal to stop with. Raises a HierampError before anything is written where the job cannot be
    done, a RunError where it fails on the way and a StoppedError where it was stopped: then the same job continues.
    """
    plan = Plan.open(job.engine or shipped_plan(), verify=False)
    recipe, classes = resolve_recipe(
        plan, classes=job.classes, ipc=job.ipc, seed=job.seed, batch_size=job.batch_size, overrides=job.overrides,
        save_size=job.save_size, compute=job.compute,
    )
    safer = _safer_plan(job, plan)
    with _workplace(job, plan, safer, stop) as place:
        choice = place.choose(Needs(recipe.batch_size, recipe.settings.top_k))
        run = _decide(job, plan, recipe, classes, choice)
        if _is_complete(run):
            _log.info("%s is complete", job.out)
            _tell(observers, Progress(run.pictures(), run.pictures(), 0, 0.0, complete=True))
            return run.report(0, 0.0)
        check_writable(job.out)
        for needed in (plan, *([safer] if safer else [])):
            needed.verify(None if job.verify else default_memory())
        with place.open(run.recipe, run.classes, choice, say) as studio:
            progress = _make(run, studio, observers, stop, say)
    return run.report(progress.drawn, progress.seconds)


def _safer_plan(job: Job, plan: Plan) -> Plan | None:
    if job.safer_plan is None:
        return None
    if job.ray is not None:
        raise SettingsError("--safer-plan does not go with --ray: leave out one of them")
    return open_safer(job.safer_plan, plan, verify=False)


def _workplace(job: Job, plan: Plan, safer: Plan | None, stop: Stop) -> AbstractContextManager[Workplace]:
    wishes = Wishes(job.backend, job.provider, job.threads, job.compute)
    if job.ray is None:
        return nullcontext(ThisProcess(plan, wishes, safer))
    from hieramp.runtime.distributed.workplace import ray_workplace

    return ray_workplace(job.ray, plan, wishes, stop)


def _decide(job: Job, plan: Plan, recipe: Recipe, classes: tuple[ClassEntry, ...], choice: Choice) -> _Run:
    recipe = replace(recipe, backend=choice.backend, provider=choice.provider, backend_choice=choice.sentence)
    teacher = _teacher(job, plan, recipe, classes)
    if teacher is not None:
        recipe = replace(recipe, teacher=teacher.path.name, teacher_sha256=teacher.digest,
                         teacher_columns=teacher.column_V)
    recipe, classes = with_layout(recipe, job.layout, job.shard_size), laid_out(classes, job.layout)
    if job.save_tokens:
        recipe = with_tokens(recipe)
    model = plan.manifest.model
    recipe = with_edit(recipe, _forced_tokens(job, plan), model)
    target = target_of(job.out, recipe, classes, model.patch_sides)
    return _Run(job, plan, recipe, classes, choice, target, LAYOUTS[job.layout].write(target), teacher)


def _teacher(job: Job, plan: Plan, recipe: Recipe, classes: tuple[ClassEntry, ...]) -> Teacher | None:
    """Before the layout renames folders, since those of the plan prove the order of the teacher's classes."""
    if job.teacher is None:
        if job.teacher_classes is not None:
            raise TeacherError("--teacher-classes names the classes of a teacher: give --teacher as well")
        return None
    catalogue = load_catalogue(plan.manifest.classes)
    return open_teacher(job.teacher, job.teacher_classes, catalogue, classes, recipe.image_side, job.threads)


def _forced_tokens(job: Job, plan: Plan) -> IntArray | None:
    """What every picture keeps; the encoder is run, on a plan that was verified, where it is to come from a picture."""
    model = plan.manifest.model
    if job.edit is None or isinstance(job.edit, Edit):
        for option, value in (("--edit-mask", job.edit_mask), ("--keep-scales", job.keep_scales)):
            if value is not None:
                raise SettingsError(f"{option} {value} says what to keep of a picture: give it with --edit")
        return None if job.edit is None else forced_tokens(job.edit, model)
    plan.verify(None if job.verify else default_memory())
    edit = read_edit(plan, job.edit, job.edit_mask, job.keep_scales or 0, job.threads)
    return forced_tokens(edit, model)


def _make(run: _Run, studio: Studio, observers: Sequence[Observer], stop: Stop, say: Say) -> Progress:
    """Everything that writes; a folder that is not free for this run is left as it was."""
    job = run.job
    with _named_failures(job.out):
        make_folders([job.out])
        with held(job.out, shared=not job.shard.is_whole):
            own = tuple(run.writer.folders())
            refuse_links(own)
            claim_folder(job.out, run.recipe, job.shard, job.overwrite, own)
            say(run.choice.sentence)
            write_start(job.out, run.recipe, run.classes, job.shard, redrawn := run.redrawn())
            with held(job.out / record_name(job.shard)):  # against the same shard, which shares the folder
                make_folders(run.writer.folders())
                progress = _draw(run, studio, redrawn, observers, stop)
                _finish(run, redrawn, say)
        progress = replace(progress, complete=True)
        _tell(observers, progress)
    return progress


def _is_complete(run: _Run) -> bool:
    """Whether the record says so and every file is there."""
    job = run.job
    named = (CLASSES, CARD, CONTACT_SHEET) if job.shard.is_whole else (CLASSES,)
    return (is_marked_complete(job.out, run.recipe, job.shard) and all(is_there(job.out / name) for name in named)
            and all(map(run.is_written, run.units())))


def _draw(run: _Run, studio: Studio, redrawn: dict[int, Redrawn], observers: Sequence[Observer],
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
        _tell(observers, progress)
        return progress.done == total or stop() is None

    _tell(observers, progress)
    studio.expect([batch for unit in todo for batch in unit.batches])
    write_units(run.writer, todo, partial(_paint, run, studio, redrawn), goes_on)
    if progress.done < total and (number := stop()) is not None:
        raise StoppedError(f"stopped by {Signals(number).name} with {progress.done} of {total} pictures drawn; "
                           "give the same command again to continue", 128 + number)
    return replace(progress, seconds=time.perf_counter() - began, batch=None, worker=None, again=())


def _paint(run: _Run, studio: Studio, redrawn: dict[int, Redrawn], batch: int) -> Sequence[Record]:
    """The pictures of a batch, noted and with soft labels where there is a teacher."""
    try:
        records = studio.paint(batch)
    except NotFiniteError as error:
        _note(run, redrawn, error.others)
        raise NotFiniteError(str(error), _labelled(run.teacher, error.others)) from error
    _note(run, redrawn, records)
    return _labelled(run.teacher, records)


def _note(run: _Run, redrawn: dict[int, Redrawn], records: Iterable[Record]) -> None:
    """Say in the record what a safer plan drew, before any of it is written."""
    before = dict(redrawn)
    for record in records:
        if run.has_picture(record.number):
            continue
        redrawn.pop(record.number, None)
        redrawn.update({record.number: record.redrawn} if record.redrawn else {})
    if redrawn != before:
        write_redrawn(run.job.out, run.recipe, run.job.shard, redrawn)


def _labelled(teacher: Teacher | None, records: Sequence[Record]) -> Sequence[Record]:
    """With soft labels where there is a teacher."""
    if teacher is None or not records:
        return records
    logits_BV = teacher.logits(np.stack([record.image_SS3 for record in records]))
    return [replace(record, soft_V=soft_V) for record, soft_V in zip(records, logits_BV, strict=True)]


def _tell(observers: Iterable[Observer], progress: Progress) -> None:
    for observer in observers:
        observer(progress)


def _finish(run: _Run, redrawn: Mapping[int, Redrawn], say: Say) -> None:
    """Contact sheet and card of a whole dataset, then the record that says it is complete, last of all."""
    job, share = run.job, _agreement(run, say) if run.teacher and run.job.shard.is_whole else None
    if job.shard.is_whole:
        save_png(draw_contact_sheet(_thumbnails(run)), job.out / CONTACT_SHEET)
        card = card_text(run.plan, run.recipe, run.classes, CONTACT_SHEET, run.target.unit_count, share, redrawn)
        write_text(card, job.out / CARD)
    write_end(job.out, run.recipe, job.shard, redrawn, share)


def _agreement(run: _Run, say: Say) -> float:
    """How often the teacher calls a picture by its class, from what is stored, whoever drew it."""
    share, count = agreement(run.writer.soft_labels(run.units()), run.recipe.ipc), len(run.classes)
    if looks_wrong(share, count):
        say(f"warning: the teacher calls {share:.1%} of the pictures by the class they were drawn as, guessing would "
            f"{1 / count:.1%}: its outputs are in another order than its list says, or it does not know such pictures")
    return share


def _thumbnails(run: _Run) -> list[tuple[ClassEntry, list[io.BytesIO]]]:
    ipc, shown = run.recipe.ipc, min(run.recipe.ipc, MOST_COLUMNS)
    labels = range(len(run.classes))
    numbers = [label * ipc + index for label in labels[:MOST_ROWS] for index in range(shown)]
    pictures = [io.BytesIO(png) for png in run.writer.read(numbers)]
    return [(entry, pictures[label * shown:(label + 1) * shown]) for label, entry in enumerate(run.classes)]


@contextmanager
def _named_failures(out: Path) -> Iterator[None]:
    """Errors of the system while a run writes, as one line with the way out."""
    try:
        yield
    except OSError as error:
        where = error.filename or out
        advice = "make room there" if error.errno in _FULL else "put that right"
        raise RunError(f"{error.strerror or error}: {where}; what is written is whole: {advice}, and the same command "
                       "continues") from error
