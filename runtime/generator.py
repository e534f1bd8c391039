"""Pictures for Python code: an iterator of records, and a dataset that a DataLoader or `datasets` takes directly."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from hieramp.runtime.backend_choice import Choice, Needs, choose_backend
from hieramp.runtime.backends import open_choice
from hieramp.runtime.batches import Shard
from hieramp.runtime.edit import Edit, forced_tokens
from hieramp.runtime.errors import NotFiniteError, PlanError, RunError
from hieramp.runtime.loaded_plan import LoadedPlan
from hieramp.runtime.painter import Painter
from hieramp.runtime.plan import Plan, shipped_plan
from hieramp.runtime.recipe import resolve_recipe, with_edit
from hieramp.runtime.record import Record
from hieramp.runtime.safer import open_safer
from hieramp.runtime.schedule import Overrides
from hieramp.runtime.second_try import Attempt, SecondTry
from hieramp.runtime.surroundings import survey

ItemT = TypeVar("ItemT")
_log = logging.getLogger(__name__)


def generate(plan: Plan | Path | str | None = None, *, classes: str | None = None, ipc: int = 10, seed: int = 0,
             batch_size: int | None = None, backend: str = "auto", provider: str | None = None,
             threads: int | None = None, overrides: Overrides | None = None, save_size: int | None = None,
             shard: Shard | None = None, edit: Edit | None = None, saliency: bool = False,
             safer_plan: Path | str | None = None) -> Iterator[Record]:
    """Draw pictures lazily, class by class, a batch at a time; arguments as of the options of hieramp-run.

    The plan defaults to the shipped one. All pictures keep what an `edit` says. `saliency` adds the saliency maps and
    needs a plan with trace outputs. `safer_plan`, the same model in a safer precision, draws a picture again that comes
    out with NaN or infinity; else NotFiniteError is raised after the other pictures of its batch. Raises a HierampError
    at once where the pictures cannot be drawn. The plan is loaded at the first picture and freed after the last, or by
    `close()`. An iterator belongs to one thread; several may run in several threads.
    """
    return iter(GeneratedDataset[Record](
        plan, classes=classes, ipc=ipc, seed=seed, batch_size=batch_size, backend=backend, provider=provider,
        threads=threads, overrides=overrides, save_size=save_size, shard=shard, edit=edit, saliency=saliency,
        safer_plan=safer_plan,
    ))


class GeneratedDataset(Generic[ItemT]):
    """The pictures of a plan as a sequence and an iterable of records, or of `transform(record)`.

    Iterating draws in order and loads the plan anew each time. Indexing draws the batch a picture belongs to and keeps
    the last batch, so that neighbours cost nothing; the plan then stays loaded until `close()`, or the end of a `with`
    block. Pickling and forking leave what is loaded behind. One thread at a time may index; iterators are independent.
    """

    def __init__(self, plan: Plan | Path | str | None = None, *, classes: str | None = None, ipc: int = 10,
                 seed: int = 0, batch_size: int | None = None, backend: str = "auto", provider: str | None = None,
                 threads: int | None = None, overrides: Overrides | None = None, save_size: int | None = None,
                 shard: Shard | None = None, edit: Edit | None = None, saliency: bool = False,
                 transform: Callable[[Record], ItemT] | None = None, safer_plan: Path | str | None = None):
        self._plan = plan if isinstance(plan, Plan) else Plan.open(plan or shipped_plan())
        self._safer = None if safer_plan is None else open_safer(safer_plan, self._plan, saliency=saliency)
        if saliency:
            _check_saliency(self._plan)
        recipe, self.classes = resolve_recipe(
            self._plan, classes=classes, ipc=ipc, seed=seed, batch_size=batch_size, overrides=overrides,
            save_size=save_size,
        )
        model = self._plan.manifest.model
        forced_L = None if edit is None else forced_tokens(edit, model)
        needs = Needs(recipe.batch_size, recipe.settings.top_k)
        self._wanted = (backend, provider)
        self._choice = choose_backend(backend, provider, survey(self._plan), needs)
        recipe = replace(recipe, backend=self._choice.backend, provider=self._choice.provider)
        self._recipe = with_edit(recipe, forced_L, model)
        self._threads, self._saliency, self._transform = threads, saliency, transform
        self._shard = shard or Shard()
        self._loaded = LoadedPlan()
        self._process = os.getpid()

    @property
    def label_names(self) -> list[str]:
        """Names of the classes by label."""
        return [entry.name for entry in self.classes]

    def shard(self, index: int, count: int) -> "GeneratedDataset[ItemT]":
        """Part `index` (from 0) of `count` parts of this dataset, by batches; the parts together are the whole."""
        part = copy(self)  # by __getstate__, hence with nothing loaded
        part._shard, part._process = self._shard.part(index, count), self._process
        return part

    def __len__(self) -> int:
        batches = self._recipe.batches
        return sum(len(batches.numbers(batch)) for batch in self._batches())

    def __iter__(self) -> Iterator[ItemT]:
        with ExitStack() as stack:
            painter = self._load(stack)
            for batch in self._batches():
                try:
                    records = painter.paint(batch)
                except NotFiniteError as error:
                    yield from map(self._item, error.others)
                    raise
                yield from map(self._item, records)

    def __getitem__(self, index: int) -> ItemT:
        """The picture at a position; IndexError ends a loop over positions."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        batch, place = self._place(index % len(self))
        number = self._recipe.batches.numbers(batch)[place]
        return self._item(self._loaded.record(batch, number, self._load))

    def __getitems__(self, indices: Sequence[int]) -> list[ItemT]:
        """What a DataLoader asks a worker for: pictures of a batch are drawn together."""
        return [self[index] for index in indices]

    def close(self) -> None:
        """Free what indexing has loaded; indexing again loads it again."""
        self._loaded.close()

    def __enter__(self) -> "GeneratedDataset[ItemT]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": LoadedPlan()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_process": os.getpid()}

    def _batches(self) -> range:
        return self._shard.of(range(self._recipe.batches.batch_count))

    def _place(self, position: int) -> tuple[int, int]:
        """Batch of a position and the place within it; only the last batch of all may be short."""
        size = self._recipe.batch_size
        return self._batches()[position // size], position % size

    def _item(self, record: Record) -> ItemT:
        return self._transform(record) if self._transform else record  # type: ignore[return-value]

    def _load(self, stack: ExitStack) -> Painter[Any]:
        if self._choice.draws_on_gpu and self._process != os.getpid():
            raise RunError("a process that was forked cannot use the GPU that its parent has asked about: start "
                           "workers with multiprocessing_context='spawn', or draw with provider='cpu'")
        second_try = stack.enter_context(self._second_try(self._safer)) if self._safer else None
        return self._painter(self._plan, self._choice, stack, second_try)

    def _second_try(self, safer: Plan) -> SecondTry:
        needs = Needs(self._recipe.batch_size, self._recipe.settings.top_k)
        choice = choose_backend(*self._wanted, survey(safer), needs)

        def load(stack: ExitStack) -> Attempt:
            return self._painter(safer, choice, stack).attempt

        return SecondTry(safer, load, f"{choice.backend} ({choice.provider})")

    def _painter(self, plan: Plan, choice: Choice, stack: ExitStack,
                 second_try: SecondTry | None = None) -> Painter[Any]:
        _log.debug("loading plan %s: %s", plan.folder, choice.sentence)
        recipe = self._recipe
        opened = open_choice(plan, choice, self._threads, batch_size=recipe.batch_size, labels=recipe.classes)
        return Painter(stack.enter_context(opened), plan, recipe, self.classes, self._saliency, second_try)


def _check_saliency(plan: Plan) -> None:
    """Raise PlanError unless the step graph gives saliency maps."""
    manifest, name = plan.manifest, plan.manifest.name
    if not manifest.trace_outputs:
        raise PlanError(f"plan {name!r} has no trace outputs, hence no saliency; export it with --trace-outputs")
    if "saliency" not in {tensor.name for tensor in manifest.graphs["scale_step"].outputs}:
        raise PlanError(f"plan {name!r} amplifies no block, hence has no saliency; export one from a HierAmp "
                        "checkpoint with --trace-outputs")
