"""One run from a plan to a dataset: everything is checked before the first file is written."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from hieramp.runtime.backend import Backend, CacheT
from hieramp.runtime.backend_choice import Choice, Needs, choose_backend
from hieramp.runtime.catalogue import ClassEntry, load_catalogue
from hieramp.runtime.class_spec import select_classes
from hieramp.runtime.contact_sheet import draw_contact_sheet
from hieramp.runtime.dataset import (
    CONTACT_SHEET,
    Recipe,
    check_writable,
    claim_folder,
    picture_path,
    write_end,
    write_start,
)
from hieramp.runtime.errors import PlanError
from hieramp.runtime.generate import Picture, PictureKey, default_batch_size, generate
from hieramp.runtime.images import save_png, to_picture
from hieramp.runtime.plan import Plan
from hieramp.runtime.schedule import Overrides, resolve_settings
from hieramp.runtime.surroundings import open_backend, survey
from hieramp.runtime.verified import default_memory

SHIPPED_PLAN = "var_cifar10.plan"
_ENCODERS, _MOST_WAITING = 2, 64

Progress = Callable[[Iterable[Picture], int], Iterable[Picture]]


@dataclass(frozen=True)
class Job:
    """What a user asked for; None stands for the plan's own default."""

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


@dataclass(frozen=True)
class Report:
    """What a run made, and how long the pictures took."""

    plan: str
    out: Path
    contact_sheet: Path
    pictures: int
    classes: int
    seconds: float
    backend: str
    backend_choice: str

    @property
    def images_per_second(self) -> float:
        return self.pictures / self.seconds


def run_job(job: Job, progress: Progress = lambda pictures, total: pictures,
            say: Callable[[str], None] = lambda line: None) -> Report:
    """Generate the dataset; `progress` may wrap the pictures as they come, given their number.

    `say` is told which back end draws, and why.

    Raises a HierampError before anything is written where the job cannot be done.
    """
    check_writable(job.out)
    plan = Plan.open(job.engine or shipped_plan(), remember=None if job.verify else default_memory())
    recipe, classes, choice = _plan_recipe(job, plan)
    with open_backend(plan, choice, job.threads, job.compute) as backend:
        claim_folder(job.out, recipe, job.overwrite)
        say(choice.sentence)
        write_start(job.out, recipe, classes)
        began = time.perf_counter()
        pictures = _draw(backend, plan, recipe, classes)
        save_pictures(progress(pictures, len(classes) * job.ipc), job.out, classes, recipe.image_side)
        seconds = time.perf_counter() - began
    sheet = write_contact_sheet(job.out, classes, job.ipc)
    write_end(job.out, recipe)
    return Report(plan.manifest.name, job.out, sheet, len(classes) * job.ipc, len(classes), seconds, choice.backend,
                  choice.sentence)


def shipped_plan() -> Path:
    """The plan that comes with the package."""
    try:
        return Path(str(files("hieramp.engines") / SHIPPED_PLAN))
    except ModuleNotFoundError:
        raise PlanError(f"{SHIPPED_PLAN} does not come with this installation; name a plan with --engine") from None


def save_pictures(pictures: Iterable[Picture], folder: Path, classes: Sequence[ClassEntry], side: int) -> None:
    """Write each picture as a PNG while the next ones are drawn."""
    entries, waiting = {entry.index: entry for entry in classes}, deque[Future[None]]()
    with ThreadPoolExecutor(_ENCODERS) as encoders:
        for picture in pictures:
            path = picture_path(folder, entries[picture.key.label], picture.key.index)
            waiting.append(encoders.submit(save_png, to_picture(picture.image_3SS, side), path))
            if len(waiting) > _MOST_WAITING:
                waiting.popleft().result()
        for future in waiting:
            future.result()


def write_contact_sheet(folder: Path, classes: Sequence[ClassEntry], ipc: int) -> Path:
    """Draw the contact sheet of a finished dataset."""
    rows = [(entry, [picture_path(folder, entry, index) for index in range(ipc)]) for entry in classes]
    save_png(draw_contact_sheet(rows), folder / CONTACT_SHEET)
    return folder / CONTACT_SHEET


def _plan_recipe(job: Job, plan: Plan) -> tuple[Recipe, tuple[ClassEntry, ...], Choice]:
    model = plan.manifest.model
    settings = resolve_settings(plan.manifest, job.overrides)
    classes = select_classes(job.classes, load_catalogue(plan.manifest.classes))
    batch_size = job.batch_size or default_batch_size(model)
    choice = choose_backend(job.backend, job.provider, survey(plan), Needs(batch_size, settings.top_k))
    recipe = Recipe.of(
        plan, settings, classes, seed=job.seed, ipc=job.ipc, batch_size=batch_size,
        image_side=job.save_size or model.image_side, choice=choice, provider=arithmetic(choice.provider, job.compute),
    )
    return recipe, classes, choice


def arithmetic(provider: str, compute: str) -> str:
    """What a record names a provider, with the arithmetic where it is not the plan's own, since that moves draws."""
    return provider if compute == "f32" else f"{provider} {compute}"


def _draw(backend: Backend[CacheT], plan: Plan, recipe: Recipe, classes: Sequence[ClassEntry]) -> Iterator[Picture]:
    keys = (PictureKey(entry.index, index) for entry in classes for index in range(recipe.ipc))
    return generate(backend, plan, recipe.settings, keys, seed=recipe.seed, batch_size=recipe.batch_size)
