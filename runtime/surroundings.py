"""What a machine and a plan's folder offer to draw with."""

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from hieramp.runtime.backend_choice import EngineSet, Surroundings
from hieramp.runtime.contract import GRAPH_NAMES
from hieramp.runtime.errors import HierampError, PlanError, ProviderError
from hieramp.runtime.gpu.cuda import CUDA_PYTHON
from hieramp.runtime.gpu.device import Device, current_device
from hieramp.runtime.gpu.limits import Limits
from hieramp.runtime.plan import Plan
from hieramp.runtime.providers import available_providers, check_precision, find_provider
from hieramp.runtime.tensorrt.library import load_library
from hieramp.runtime.tensorrt.limits import limits_of
from hieramp.runtime.tensorrt.sidecar import ENGINES_FOLDER, FLAVOURS, check_sidecar, engine_file, read_sidecar


def survey(plan: Plan) -> Surroundings:
    """Look around; libraries are imported only where the plan has engines for them and there is a GPU."""
    folders, device = _engine_folders(plan), current_device()
    flavours = {_flavour(folder) for folder in folders} if device else set()
    versions, missing = _versions(flavours)
    missing |= _without_cuda_python() if device else {}
    engines = tuple(_engine_set(plan, folder, device, versions) for folder in folders)
    providers: tuple[str, ...] = ()
    try:
        providers = available_providers() if device else _providers_without_gpu()
        if plan.manifest.precision == "bf16":
            providers += _openvino_for_bf16(missing)
    except ImportError as error:
        missing["onnxruntime"] = f"ONNX Runtime cannot be imported ({error}): pip install 'hieramp[cpu]'"
    return Surroundings(engines, device, providers, missing, plan.manifest.precision)


def _providers_without_gpu() -> tuple[str, ...]:
    """What there is to know without loading ONNX Runtime, which a run that finds its work done need not do."""
    try:
        found = find_spec("onnxruntime")
    except ValueError:  # its entry among the loaded modules is None or no module
        found = None
    if found is None:
        raise ImportError("No module named 'onnxruntime'")
    return ("cpu",)


def _openvino_for_bf16(missing: dict[str, str]) -> tuple[str, ...]:
    """OpenVINO, which alone has bfloat16 products on a processor; where it does not draw here, the reason is noted."""
    try:
        find_provider("openvino")
        check_precision("openvino", "bf16")
    except ProviderError as error:
        missing["openvino"] = str(error)
        return ()
    return ("openvino",)


def _engine_folders(plan: Plan) -> list[Path]:
    """Folders of engines, the newest first, so that of several that fit the last one built is taken."""
    folder = plan.folder / ENGINES_FOLDER
    try:
        found = [path for path in folder.iterdir() if _flavour(path) in FLAVOURS] if folder.is_dir() else []
        return sorted((path for path in found if path.is_dir()), key=lambda path: (-path.stat().st_mtime, path.name))
    except OSError as error:
        raise PlanError(f"{folder} cannot be read ({error.strerror or error}); put that right, or remove it") from None


def _flavour(folder: Path) -> str:
    return folder.name.split("-")[0]


def _versions(flavours: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Versions of the libraries that import, and why the others do not."""
    versions, missing = {}, {}
    for flavour in flavours:
        try:
            versions[flavour] = load_library(flavour).version
        except HierampError as error:
            missing[flavour] = str(error)
    return versions, missing


def _without_cuda_python() -> dict[str, str]:
    """Why cuda-python, by which both engines and ONNX Runtime on CUDA are run, does not import; empty where it does."""
    try:
        import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        return {"cuda-python": f"cuda-python cannot be imported ({error}): pip install {CUDA_PYTHON}"}
    return {}


def _engine_set(plan: Plan, folder: Path, device: Device | None, versions: dict[str, str]) -> EngineSet:
    flavour = _flavour(folder)
    if device is None or flavour not in versions:
        return EngineSet(folder, flavour)
    try:
        for graph in GRAPH_NAMES:
            check_sidecar(engine_file(folder, graph), flavour=flavour, version=versions[flavour],
                          compute_capability=device.compute_capability, plan=plan)
        return EngineSet(folder, flavour, _limits(folder))
    except HierampError as error:
        return EngineSet(folder, flavour, misfit=str(error))


def _limits(folder: Path) -> Limits:
    return limits_of(read_sidecar(engine_file(folder, graph)) for graph in GRAPH_NAMES)
