"""A job with everything about it decided, before anything is written."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hieramp.runtime.at_once import lanes_for
from hieramp.runtime.backend import IntArray
from hieramp.runtime.backend_choice import Choice
from hieramp.runtime.batches import Unit, units
from hieramp.runtime.catalogue import ClassEntry, load_catalogue
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.dataset import CARD, CLASSES, CONTACT_SHEET, is_marked_complete, read_redrawn
from hieramp.runtime.durable import is_there
from hieramp.runtime.edit import Edit, forced_tokens
from hieramp.runtime.edit_files import read_edit
from hieramp.runtime.errors import SettingsError, TeacherError
from hieramp.runtime.job import Job
from hieramp.runtime.plan import Plan
from hieramp.runtime.recipe import Recipe, with_edit
from hieramp.runtime.redrawn import Redrawn
from hieramp.runtime.teacher import Teacher, open_teacher
from hieramp.runtime.verified import default_memory
from hieramp.runtime.writers.layouts import LAYOUTS, laid_out, target_of, with_layout, with_tokens
from hieramp.runtime.writers.writer import Target, Writer

_PROCESSOR = ("cpu", "openvino")


@dataclass(frozen=True)
class Run:
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

    def files_of(self, number: int) -> list[Path]:
        """The files that hold what belongs to a picture."""
        unit = number // self.target.pictures_a_unit
        return [*self.writer.files(Unit(unit, self.target.unit_count, range(0), range(number, number + 1)))]

    def has_picture(self, number: int) -> bool:
        """Whether its files are there, which are then left as they are."""
        return all(map(is_there, self.files_of(number)))

    def pictures(self) -> int:
        return sum(len(unit.pictures) for unit in self.units())

    def redrawn(self) -> dict[int, Redrawn]:
        """Its pictures that a safer plan drew, as the folder's records say."""
        redrawn = read_redrawn(self.job.out, self.recipe)
        own = {number for unit in self.units() for number in unit.pictures} if redrawn else set()
        return {number: picture for number, picture in redrawn.items() if number in own}

    def how(self) -> list[str]:
        """Which back end draws and why and, where it is this machine's processor, with how many threads."""
        job = self.job
        if job.ray is not None or self.choice.provider not in _PROCESSOR:
            return [self.choice.sentence]
        why = "as asked" if job.threads else "the physical cores that this process may use"
        lanes = lanes_for(self.plan.manifest, self.choice.provider, job.threads, self.recipe.batch_size)
        parts = f"; {lanes} parts of a batch are drawn at a time" if lanes > 1 else ""
        return [self.choice.sentence, f"threads: {job.threads or usable_cores()}, {why}{parts}"]

    def is_complete(self) -> bool:
        """Whether the record says so and every file is there."""
        job = self.job
        named = (CLASSES, CARD, CONTACT_SHEET) if job.shard.is_whole else (CLASSES,)
        return (is_marked_complete(job.out, self.recipe, job.shard)
                and all(is_there(job.out / name) for name in named) and all(map(self.is_written, self.units())))


def decide(job: Job, plan: Plan, recipe: Recipe, classes: tuple[ClassEntry, ...], choice: Choice) -> Run:
    """Layout, teacher, kept tokens and writer; raises a HierampError where the job cannot be done so."""
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
    return Run(job, plan, recipe, classes, choice, target, LAYOUTS[job.layout].write(target), teacher)


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
