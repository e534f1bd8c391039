"""Sessions of a plan's graphs on one of ONNX Runtime's providers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hieramp.runtime.binding import Tensor, run_bound
from hieramp.runtime.bounds import MESSAGE_LENGTH
from hieramp.runtime.contract import CUT, LATENT, LOGITS
from hieramp.runtime.errors import PlanError, ProviderError, RunError
from hieramp.runtime.manifest import Manifest
from hieramp.runtime.providers import PROVIDERS, Provider, select_provider
from hieramp.runtime.sessions import session_options
from hieramp.runtime.terminal import shortened


@dataclass(frozen=True)
class CutStep:
    """Sessions of the step in two, between which the runtime draws the tokens."""

    logits: Any
    latent: Any


@dataclass(frozen=True)
class LoadedGraphs:
    """What drawing takes: conditions (`conditions.py`), and sessions of step and decoder; the step may be cut."""

    condition: Any
    step: Any
    decoder: Any


def load_graphs(manifest: Manifest, cut: bool, load: Callable[[str], Any]) -> LoadedGraphs:
    """The sessions that `load` opens by a graph's name; the step cut where that is wanted and the plan has it so."""
    condition = load("condition")  # first, as its weights may be gone before the others come
    in_two = cut and set(CUT) <= set(manifest.graphs)
    step = CutStep(load(LOGITS), load(LATENT)) if in_two else load("scale_step")
    return LoadedGraphs(condition, step, load("decoder"))


def load_graph(path: Path, provider: Provider, threads: int, compute: str, lanes: int = 1) -> Any:
    """A session of a plan's graph; raises PlanError where it does not load, ProviderError where the provider fails."""
    import onnxruntime

    options = session_options(max(1, threads - lanes + 1))  # the thread that asks computes too
    providers = select_provider(options, provider, threads, compute, lanes)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers)
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        way_out = "" if provider == PROVIDERS["cpu"] else "; export the plan again, or try --provider cpu"
        raise PlanError(f"ONNX Runtime cannot load {path} with {provider.full_name}: "
                        f"{shortened(str(error), MESSAGE_LENGTH)}{way_out}") from error
    if provider.full_name not in session.get_providers():
        raise ProviderError(f"{provider.full_name} does not start here, see its messages above; "
                            "check its driver and libraries, or use --provider cpu")
    return session


def run_graph(session: Any, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
    """Run a session that reads and writes these views; raises RunError where it fails."""
    try:
        run_bound(session, inputs, outputs)
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        raise RunError(f"ONNX Runtime failed: {shortened(str(error), MESSAGE_LENGTH)}; "
                       "a smaller --batch-size needs less memory") from error
