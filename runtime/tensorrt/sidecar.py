"""What lies beside an engine: how it was built and for whom, to be checked before TensorRT sees a byte of it.

TensorRT answers an engine that does not fit with None and a line in its log. The sidecar says the same in words.
"""

import json
import platform
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hieramp.runtime.bounds import MESSAGE_LENGTH, SIDECAR_BYTES
from hieramp.runtime.contract import GRAPH_NAMES, WEIGHTS
from hieramp.runtime.gpu.errors import EngineError
from hieramp.runtime.json_file import read_json
from hieramp.runtime.manifest import Member
from hieramp.runtime.plan import Plan, describe_member
from hieramp.runtime.schema import SchemaError, decode, encode
from hieramp.runtime.terminal import shortened

SCHEMA_VERSION = 1
FLAVOURS = ("tensorrt", "tensorrt_rtx")
ENGINES_FOLDER = "tensorrt"
_SHOWN_DIGITS = 12


@dataclass(frozen=True)
class Range:
    """Smallest, usual and largest shape of an input, or values of an input that shapes depend on."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """An optimization profile: the shapes of every input, and the values of those inputs that are shapes themselves."""

    scale: int | None
    shapes: dict[str, Range]
    values: dict[str, Range]


@dataclass(frozen=True)
class Sidecar:
    """Everything the JSON file says; profile k of a step engine is the one of scale k.

    Compute capabilities are written without their dot (89, 120). `cuda` and `driver` are null where the machine that
    built the engine had no driver, `plugins` are those the engine needs at run time.
    """

    schema_version: int
    graph: str
    flavour: str
    version: str
    compute_capabilities: tuple[str, ...]
    system: str
    cuda: str | None
    driver: str | None
    onnx_sha256: str
    weights_sha256: str
    plugins: tuple[str, ...]
    profiles: tuple[Profile, ...]
    precision: str
    tf32: bool
    build_seconds: float
    engine: Member

    def __post_init__(self) -> None:
        for name, value, known in (("schema_version", self.schema_version, (SCHEMA_VERSION,)),
                                   ("flavour", self.flavour, FLAVOURS), ("graph", self.graph, GRAPH_NAMES)):
            if value not in known:
                raise SchemaError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}")


def engine_folder(plan_folder: Path, flavour: str, version: str, compute_capabilities: tuple[str, ...]) -> Path:
    """Where a plan's engines for one library and one set of targets lie."""
    targets = "-".join(f"sm{capability}" for capability in compute_capabilities)
    return plan_folder / ENGINES_FOLDER / f"{flavour}-{version}-{targets}"


def engine_file(folder: Path, graph: str) -> Path:
    """The engine of a graph in a folder of engines."""
    return folder / f"{graph}.engine"


def sidecar_path(engine: Path) -> Path:
    """The sidecar of an engine."""
    return engine.with_name(f"{engine.name}.json")


def sidecar_json(sidecar: Sidecar) -> str:
    """The text that `read_sidecar` reads."""
    return json.dumps(encode(sidecar), indent=1, allow_nan=False) + "\n"


def read_sidecar(engine: Path) -> Sidecar:
    """The sidecar beside an engine; an EngineError says why it cannot be read, or which field is wrong."""
    path = sidecar_path(engine)
    try:
        sidecar: Sidecar = decode(Sidecar, read_json(path, SIDECAR_BYTES))
    except OSError as error:
        raise EngineError(f"{path} cannot be read ({error.strerror or error})") from None
    except SchemaError as error:
        raise EngineError(f"{path}: {shortened(str(error), MESSAGE_LENGTH)}") from None
    except ValueError as error:
        raise EngineError(f"{path} is not valid JSON ({error})") from None
    return sidecar


def current_system() -> str:
    """Operating system and processor, as a sidecar names them."""
    return f"{platform.system()}-{platform.machine()}".lower()


def rebuild_command(plan: Plan, flavour: str, compute_capability: str) -> str:
    """The command that builds the engines of a plan for one library and GPU."""
    return (f"hieramp-export --from-plan {shlex.quote(str(plan.folder))} --target {flavour} "
            f"--compute-capability {compute_capability}")


def check_sidecar(engine_path: Path, *, flavour: str, version: str, compute_capability: str, plan: Plan) -> None:
    """Make sure that an engine fits the library (`flavour`, `version`), the GPU and the plan.

    Raises an EngineError of one line that names both sides and the command that builds the engine again.
    """
    way_out = f"build it again with: {rebuild_command(plan, flavour, compute_capability)}"
    try:
        sidecar = read_sidecar(engine_path)
    except EngineError as error:
        raise EngineError(f"{error}; {way_out}") from None
    for problem in _problems(sidecar, engine_path, flavour, version, compute_capability, plan):
        raise EngineError(f"{engine_path} {problem}; {way_out}")


def _problems(
    sidecar: Sidecar, engine: Path, flavour: str, version: str, compute_capability: str, plan: Plan
) -> Iterator[str]:
    if sidecar.graph != engine.stem:
        yield f"has the sidecar of {sidecar.graph}"
    if (sidecar.flavour, sidecar.version) != (flavour, version):
        yield f"was built by {sidecar.flavour} {sidecar.version}, but this is {flavour} {version}"
    if sidecar.flavour == "tensorrt" and sidecar.system != current_system():
        yield f"was built on {sidecar.system}, but this is {current_system()}"
    if compute_capability not in sidecar.compute_capabilities:
        built = ", ".join(sidecar.compute_capabilities) or "none"
        yield f"was built for compute capability {built}, but this GPU has {compute_capability}"
    yield from _plan_problems(sidecar, plan)
    yield from _file_problems(sidecar.engine, engine)


def _plan_problems(sidecar: Sidecar, plan: Plan) -> Iterator[str]:
    onnx = plan.path(plan.manifest.graphs[sidecar.graph].file)
    if not onnx.is_file():
        yield f"was built from {onnx}, which is missing"
    for name, built, now in ((onnx.name, sidecar.onnx_sha256, describe_member(onnx).sha256),
                             (WEIGHTS, sidecar.weights_sha256, plan.manifest.members[WEIGHTS].sha256)):
        if built != now:
            yield f"was built from another {name} (SHA-256 {built[:_SHOWN_DIGITS]}…, now {now[:_SHOWN_DIGITS]}…)"


def _file_problems(wanted: Member, engine: Path) -> Iterator[str]:
    if not engine.is_file():
        yield "is missing"
    size = engine.stat().st_size
    if size != wanted.bytes:
        yield f"has {size} bytes where its sidecar lists {wanted.bytes}"
    found = describe_member(engine).sha256
    if found != wanted.sha256:
        yield (f"has changed since it was built (SHA-256 {found[:_SHOWN_DIGITS]}…, "
               f"its sidecar lists {wanted.sha256[:_SHOWN_DIGITS]}…)")
