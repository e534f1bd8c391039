"""One run from a plan to a dataset: everything is checked before the first file is written, and every file is whole."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from hieramp.runtime.backend_choice import Needs
from hieramp.runtime.dataset import CONTACT_SHEET, check_writable, recorded_agreement
from hieramp.runtime.errors import SettingsError
from hieramp.runtime.job import Job, Report
from hieramp.runtime.making import make, tell
from hieramp.runtime.plan import Plan, shipped_plan
from hieramp.runtime.progress import Observer, Progress
from hieramp.runtime.recipe import resolve_recipe
from hieramp.runtime.run import Run, decide
from hieramp.runtime.safer import check_same_weights, open_unread
from hieramp.runtime.signals import Stop, never
from hieramp.runtime.verified import default_memory
from hieramp.runtime.workplace import Say, ThisProcess, Wishes, Workplace

_log = logging.getLogger(__name__)


def run_job(job: Job, observers: Sequence[Observer] = (), stop: Stop = never,
            say: Say = lambda line: None) -> Report:
    """Generate the dataset, or what an earlier run has left to do; a complete one is left as it is.

    The observers are told of every batch, `say` which back end draws, and why. `stop` is asked after every batch and
    gives the number of a signal to stop with. Raises a HierampError before anything is written where the job cannot be
    done, one with exit code 1 where it fails on the way and a StoppedError where it was stopped: then the same job
    continues.
    """
    plan = Plan.open(job.engine or shipped_plan(), verify=False)
    recipe, classes = resolve_recipe(
        plan, classes=job.classes, ipc=job.ipc, seed=job.seed, batch_size=job.batch_size, overrides=job.overrides,
        save_size=job.save_size, compute=job.compute,
    )
    safer = _safer_plan(job, plan)
    with _workplace(job, plan, safer, stop) as place:
        choice = place.choose(Needs(recipe.batch_size, recipe.settings.top_k))
        run = decide(job, plan, recipe, classes, choice)
        if run.is_complete():
            _log.info("%s is complete", job.out)
            tell(observers, Progress(run.pictures(), run.pictures(), 0, 0.0, complete=True))
            return _report(run, 0, 0.0)
        check_writable(job.out)
        for needed in (plan, *([safer] if safer else [])):
            needed.verify(None if job.verify else default_memory())
        if safer:
            check_same_weights(plan, safer)
        with place.open(run.recipe, run.classes, choice, say) as studio:
            progress = make(run, studio, observers, stop, say)
    return _report(run, progress.drawn, progress.seconds)


def _safer_plan(job: Job, plan: Plan) -> Plan | None:
    if job.safer_plan is None:
        return None
    if job.ray is not None:
        raise SettingsError("--safer-plan does not go with --ray: leave out one of them")
    return open_unread(job.safer_plan, plan)


def _workplace(job: Job, plan: Plan, safer: Plan | None, stop: Stop) -> AbstractContextManager[Workplace]:
    wishes = Wishes(job.backend, job.provider, job.threads, job.compute)
    if job.ray is None:
        return nullcontext(ThisProcess(plan, wishes, safer))
    from hieramp.runtime.distributed.workplace import ray_workplace

    return ray_workplace(job.ray, plan, wishes, stop)


def _report(run: Run, drawn: int, seconds: float) -> Report:
    sheet = run.job.out / CONTACT_SHEET if run.job.shard.is_whole else None
    return Report(run.plan.manifest.name, run.job.out, sheet, run.pictures(), len(run.classes), drawn, seconds,
                  run.choice.backend, run.choice.sentence, recorded_agreement(run.job.out) if sheet else None,
                  len(run.redrawn()))
