"""One ONNX graph to one serialized engine, through the API that TensorRT and TensorRT-RTX share.

Networks are strongly typed: every type is the graph's own. The custom operators are their bodies, unless the job brings
a graph of its own in which they are plugins.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hieramp.export.tensorrt_build.errors import BuildError
from hieramp.export.tensorrt_build.profiles import Batches
from hieramp.export.tensorrt_build.progress import Progress, interrupt_cancels
from hieramp.runtime.tensorrt.library import Library
from hieramp.runtime.tensorrt.messages import bound
from hieramp.runtime.tensorrt.sidecar import Profile

_MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class BuildOptions:
    """How engines are built; None leaves the library's own default.

    `tf32` lets float32 products be rounded to TF32; `plugins` runs the custom operators as plugins.
    """

    batches: Batches = field(default_factory=Batches)
    workspace_mb: int | None = None
    opt_level: int | None = None
    timing_cache: Path | None = None
    tf32: bool = False
    plugins: bool = False


@dataclass(frozen=True)
class Job:
    """One engine to build, of the graph in `onnx`, or of `graph`, whose weights lie beside that file."""

    title: str
    onnx: Path
    profiles: tuple[Profile, ...]
    compute_capabilities: tuple[str, ...]
    graph: bytes | None = None


def build_engine(library: Library, job: Job, options: BuildOptions) -> memoryview:
    """The serialized engine; a BuildError gives the library's reason where it refuses."""
    trt, messages = library.module, library.messages()
    builder = _builder(library, messages)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, messages)  # holds the weights, so it has to outlive the build
    parsed = parser.parse(job.graph, str(job.onnx)) if job.graph else parser.parse_from_file(str(job.onnx))
    if not parsed:
        raise BuildError(f"{library.flavour} {library.version} cannot parse {job.onnx}: {_parser_reason(parser)}")
    with _progress(library, job.title) as progress:
        config = _config(library, builder, network, job, options)
        config.progress_monitor = progress
        with interrupt_cancels(progress):
            engine = builder.build_serialized_network(network, config)
    serialized = memoryview(_created(engine, messages, f"{library.flavour} cannot build {job.onnx}"))
    _keep_timing_cache(config, options.timing_cache)
    return serialized


def _builder(library: Library, messages: Any) -> Any:
    try:
        return library.module.Builder(messages)
    except (TypeError, RuntimeError) as error:  # the first where the library gives none, as with too old a driver
        raise BuildError(f"{library.flavour} {library.version} does not start ({messages.reason}); "
                         "check the driver of the GPU") from error


def shape_inputs(network: Any) -> list[str]:
    """Names of the inputs whose values decide shapes."""
    inputs = (network.get_input(i) for i in range(network.num_inputs))
    return [tensor.name for tensor in inputs if tensor.is_shape_tensor]


def _config(library: Library, builder: Any, network: Any, job: Job, options: BuildOptions) -> Any:
    trt, config = library.module, builder.create_builder_config()
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if capturable := getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None):
        config.set_flag(capturable)  # TensorRT-RTX allocates while it runs otherwise, which no CUDA graph can hold
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb * _MEBIBYTE)
    if options.opt_level is not None:
        config.builder_optimization_level = options.opt_level
    for profile in job.profiles:
        _add_profile(config, builder, network, profile)
    if library.builds_for_any_gpu:
        _set_targets(trt, config, job.compute_capabilities)
    _use_timing_cache(library, config, options.timing_cache)
    return config


def _add_profile(config: Any, builder: Any, network: Any, profile: Profile) -> None:
    target, values = builder.create_optimization_profile(), shape_inputs(network)
    for name, shape in profile.shapes.items():
        target.set_shape(name, shape.min, shape.opt, shape.max)
    for name in values:
        if name not in profile.values:
            raise BuildError(f"shapes depend on the values of the input {name}, whose limits are unknown")
        limits = profile.values[name]
        target.set_shape_input(name, limits.min, limits.opt, limits.max)
    if config.add_optimization_profile(target) < 0:
        raise BuildError(f"the profile of scale {profile.scale} does not fit the graph; export the plan again")


def _set_targets(trt: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), index):
            raise BuildError(f"compute capability {capability} is refused beside {', '.join(capabilities)}: "
                             "build for it alone")


def check_timing_cache(library: Library, path: Path | None) -> None:
    """Raise BuildError where the library has no use for it."""
    if path is not None and library.builds_for_any_gpu:
        raise BuildError(f"{library.flavour} times nothing when it builds: leave out --timing-cache")


def _use_timing_cache(library: Library, config: Any, path: Path | None) -> None:
    check_timing_cache(library, path)
    if path is None:
        return
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise BuildError(f"{path} is no timing cache of {library.flavour} {library.version} on this GPU: "
                         "delete it, or name another file")


def _keep_timing_cache(config: Any, path: Path | None) -> None:
    if path is not None:
        path.write_bytes(memoryview(config.get_timing_cache().serialize()))


def _network_flags(trt: Any) -> int:
    """Strong typing, which later versions know no alternative to and need no flag for."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


@contextmanager
def _progress(library: Library, title: str) -> Iterator[Any]:
    progress = bound(Progress, library.module.IProgressMonitor)(title)
    try:
        yield progress
    finally:
        progress.close()


def _parser_reason(parser: Any) -> str:
    if not parser.num_errors:
        return "no reason given"
    error = parser.get_error(0)
    return f"node {error.node_name() or '?'} ({error.node_operator() or '?'}): {error.desc()}"


def _created(thing: Any, messages: Any, failure: str) -> Any:
    """What the library made; it makes None, and logs why, where it cannot."""
    if thing is None:
        raise BuildError(f"{failure}: {messages.reason}")
    return thing
