"""One comparison from paths to figures: which reference, which back end, what is recorded on the way."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hieramp.export.errors import ExportError
from hieramp.export.parity.comparison import Comparison, compare
from hieramp.export.parity.diversity import Diversity, DiversityJob, diversity
from hieramp.export.parity.facts import Facts, plan_facts
from hieramp.export.parity.observation import Inputs, Observation, observe, picture_batches
from hieramp.export.parity.recording import read_batch_size, read_facts, read_pairs, record_pairs
from hieramp.runtime import Backend, OnnxRuntimeBackend, Plan, resolve_settings
from hieramp.runtime.backend_choice import Choice, Needs, Surroundings, choose_backend
from hieramp.runtime.backends import open_choice
from hieramp.runtime.drawing import default_batch_size
from hieramp.runtime.surroundings import survey

Pairs = Iterable[tuple[Inputs, Observation]]


@dataclass(frozen=True)
class CompareJob:
    """What a user asked for. At most one of `reference`, `against` and `recorded`; none is the plan's own weights.

    Without `backend` the plan runs on ONNX Runtime with `provider`, the CPU where that is None too.
    """

    plan: Path
    reference: tuple[Path, Path] | None = None
    against: Path | None = None
    recorded: Path | None = None
    preset: str | None = None
    config: Path | None = None
    settings: Path | None = None
    save: Path | None = None
    backend: str | None = None
    provider: str | None = None
    threads: int | None = None
    images: int = 64
    batch_size: int | None = None
    seed: int = 0


def run_compare(job: CompareJob) -> Comparison:
    """Compare; on ONNX Runtime the plan runs with trace outputs added where it has none."""
    _refuse_contradictions(job)
    plan = Plan.open(job.plan)
    choice = _choose(job, plan)
    with ExitStack() as stack:
        facts, pairs = stack.enter_context(_reference(job, plan))
        seen, backend = stack.enter_context(_opened(plan, choice, job.threads))
        if job.save:
            pairs = record_pairs(pairs, facts, job.save)
        return compare(seen, backend, facts, pairs, digest=plan.digest, choice=choice)


def run_diversity(folder: Path, *, images: int, batch_size: int | None, seed: int, resamples: int, provider: str,
                  threads: int | None) -> Diversity:
    """Draw with amplification and without, on ONNX Runtime."""
    plan = Plan.open(folder)
    size = min(batch_size or default_batch_size(plan.manifest.model), images)
    with _visible(plan) as seen, OnnxRuntimeBackend.open(seen, provider, threads) as backend:
        return diversity(seen, backend, DiversityJob(images, size, seed, resamples), digest=plan.digest)


def _choose(job: CompareJob, plan: Plan) -> Choice:
    """The back end asked for; a comparison goes to a device only where that is said."""
    if job.backend is None and job.provider is None:
        return Choice("onnxruntime", "cpu", "the default")
    if job.provider:  # which decides by itself, whatever is there
        return choose_backend(job.backend or "onnxruntime", job.provider, Surroundings(), Needs(0, 0))
    size = read_batch_size(job.recorded) if job.recorded else _batch_size(job, plan)
    needs = Needs(size, resolve_settings(plan.manifest).top_k)
    return choose_backend(job.backend or "onnxruntime", None, survey(plan), needs)


def _batch_size(job: CompareJob, plan: Plan) -> int:
    return min(job.batch_size or default_batch_size(plan.manifest.model), job.images)


@contextmanager
def _opened(plan: Plan, choice: Choice, threads: int | None) -> Iterator[tuple[Plan, Backend[Any]]]:
    """The plan that runs, and what runs it. Engines are built from the plan's own graphs and show what those show."""
    with ExitStack() as stack:
        seen = plan if choice.engines else stack.enter_context(_visible(plan))
        yield seen, stack.enter_context(open_choice(seen, choice, threads))


@contextmanager
def _reference(job: CompareJob, plan: Plan) -> Iterator[tuple[Facts, Pairs]]:
    if job.recorded:
        yield read_facts(job.recorded), read_pairs(job.recorded)
        return
    batches = picture_batches(plan, job.images, _batch_size(job, plan), job.seed)
    if job.against:
        other = Plan.open(job.against)
        with _visible(other) as seen, OnnxRuntimeBackend.open(seen, threads=job.threads) as backend:
            facts = plan_facts(other)
            yield facts, ((inputs, observe(backend, seen, facts.settings, inputs)) for inputs in batches)
        return
    try:
        from hieramp.export.parity.checkpoint import CheckpointSource, observe_checkpoint, open_checkpoint
    except ImportError as error:
        raise ExportError(f"a checkpoint needs PyTorch ({error}): pip install 'hieramp[export]', or compare with "
                          "--against PLAN or --recorded RECORD") from error
    var, vae = job.reference or (None, None)
    model = open_checkpoint(CheckpointSource(var, vae, job.preset, job.config, job.settings), plan)
    yield model.facts, observe_checkpoint(model, batches)


@contextmanager
def _visible(plan: Plan) -> Iterator[Plan]:
    """The plan with logits and saliency as outputs, where ONNX is there to add them."""
    try:
        from hieramp.export.observed import observed_plan
    except ImportError:
        if plan.manifest.precision == "bf16":
            raise ExportError("a bf16 plan runs here only through ONNX: pip install onnx") from None
        yield plan
        return
    with observed_plan(plan) as seen:
        yield seen


def _refuse_contradictions(job: CompareJob) -> None:
    given = [option for option, value in (("--reference", job.reference), ("--against", job.against),
                                          ("--recorded", job.recorded)) if value]
    if len(given) > 1:
        raise ExportError(f"give one of --reference, --against and --recorded, got {' and '.join(given)}")
    if given and given != ["--reference"]:
        odd = [f"--{name}" for name in ("preset", "config", "settings") if getattr(job, name)]
        if odd:
            raise ExportError(f"{given[0]} brings its own model and settings: leave out {', '.join(odd)}")
    if job.recorded and job.save:
        raise ExportError(f"--recorded {job.recorded} is a record already: leave out --save")
