"""Where batches are drawn: in this process, or by workers elsewhere; a run is told apart by nothing else."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from hieramp.runtime.backend_choice import Choice, Needs, choose_backend
from hieramp.runtime.backends import open_choice
from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.painter import Painter
from hieramp.runtime.plan import Plan
from hieramp.runtime.progress import Worker
from hieramp.runtime.recipe import Recipe
from hieramp.runtime.record import Record
from hieramp.runtime.second_try import Attempt, Outcome, SecondTry
from hieramp.runtime.surroundings import survey

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wishes:
    """What a user asked of the back end, by the names of the command's options."""

    backend: str = "auto"
    provider: str | None = None
    threads: int | None = None
    compute: str = "f32"

    def choose(self, plan: Plan, needs: Needs) -> Choice:
        """The back end for this plan on this machine; raises a HierampError where none can draw."""
        return choose_backend(self.backend, self.provider, survey(plan), needs)


class Studio(Protocol):
    """Draws the batches of one recipe."""

    def expect(self, batches: Sequence[int]) -> None:
        """Told once, before the first: the batches that will be asked for, in order."""

    def paint(self, batch: int) -> Sequence[Record]:
        """The pictures of a batch."""

    def worker(self, batch: int) -> Worker | None:
        """Who drew the batch that was painted last; None for this process."""


class Workplace(Protocol):
    """Chooses a back end where it will draw, and opens a studio there."""

    def choose(self, needs: Needs) -> Choice:
        """The back end that will draw."""

    def open(self, recipe: Recipe, classes: Sequence[ClassEntry], choice: Choice,
             say: Say) -> AbstractContextManager[Studio]:
        """A studio for this recipe; `say` is told what a user should know."""


class LocalStudio:
    """A painter in this process. Where it takes several batches at once, they are begun before they are asked for."""

    def __init__(self, painter: Painter[Any]):
        self._painter = painter
        self._threads = ThreadPoolExecutor(painter.batches_at_once, "hieramp-batch")
        self._coming, self._begun, self._any = deque[int](), dict[int, Future[list[Outcome]]](), False

    def expect(self, batches: Sequence[int]) -> None:
        if self._painter.batches_at_once > 1:
            self._coming = deque(batches)

    def paint(self, batch: int) -> Sequence[Record]:
        self._begin()
        if batch not in self._begun:
            return self._painter.paint(batch)
        outcomes = self._begun.pop(batch).result()
        self._begin()
        return self._painter.settle(batch, outcomes)

    def worker(self, batch: int) -> Worker | None:
        return None

    def close(self) -> None:
        """Drop what is begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._painter.close()
        self._threads.shutdown()

    def _begin(self) -> None:
        while self._coming and len(self._begun) < self._painter.batches_at_once:
            batch = self._coming.popleft()
            self._begun[batch] = self._threads.submit(self._attempt, batch, not self._any)
            self._any = True

    def _attempt(self, batch: int, first: bool) -> list[Outcome]:
        """The second batch is begun with the first, and must not be drawn before it; later ones are far apart."""
        if not first:
            self._painter.wait_for_begin()
        return self._painter.attempt(batch)


@dataclass(frozen=True)
class ThisProcess:
    """The workplace of a run on one machine."""

    plan: Plan
    wishes: Wishes
    safer: Plan | None = None

    def choose(self, needs: Needs) -> Choice:
        return self.wishes.choose(self.plan, needs)

    @contextmanager
    def open(self, recipe: Recipe, classes: Sequence[ClassEntry], choice: Choice, say: Say) -> Iterator[Studio]:
        with ExitStack() as stack:
            second_try = self._second_try(self.safer, recipe, classes, choice) if self.safer else None
            stack.enter_context(second_try or nullcontext())
            threads, compute = self.wishes.threads, self.wishes.compute
            opened = open_choice(self.plan, choice, threads, compute, recipe.batch_size, recipe.classes)
            backend = stack.enter_context(opened)
            painter = Painter(backend, self.plan, recipe, classes, second_try=second_try)
            yield stack.enter_context(closing(LocalStudio(painter)))

    def _second_try(self, safer: Plan, recipe: Recipe, classes: Sequence[ClassEntry], choice: Choice) -> SecondTry:
        """Drawn in float32 where a run asks for a faster arithmetic."""
        choice = safer_choice(safer, choice, Needs(recipe.batch_size, recipe.settings.top_k))

        def load(stack: ExitStack) -> Attempt:
            threads = self.wishes.threads
            opened = open_choice(safer, choice, threads, batch_size=recipe.batch_size, labels=recipe.classes)
            return Painter(stack.enter_context(opened), safer, recipe, classes).attempt

        return SecondTry(safer, load, f"{choice.backend} ({choice.provider})")


def safer_choice(safer: Plan, choice: Choice, needs: Needs) -> Choice:
    """The provider of ONNX Runtime that draws the plan draws the safer one; beside engines it is what that one has."""
    return choice if choice.engines is None else choose_backend("auto", None, survey(safer), needs)
