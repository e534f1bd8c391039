"""The graph of an engine that runs the custom operators as plugins."""

from hieramp.export.tensorrt_build.errors import BuildError
from hieramp.runtime.gpu.device import Device
from hieramp.runtime.plan import Plan


def plugin_graph(plan: Plan, graph: str, device: Device | None) -> tuple[bytes | None, tuple[str, ...]]:
    """The graph with plugins in place of the operators, and their names; None and no name where it has none.

    Registers the plugins with TensorRT if they are not yet. Needs the packages onnx, triton and tensorrt.
    """
    from hieramp.export.tensorrt_plugins.nodes import plugins_of, with_plugins
    from hieramp.export.tensorrt_plugins.registration import register
    from hieramp.export.tensorrt_plugins.sizes import PluginSizes

    serialized = plan.path(plan.manifest.graphs[graph].file).read_bytes()
    plugins = plugins_of(serialized)
    if not plugins:
        return None, ()
    if device is None:
        raise BuildError("plugins are compiled for the GPU at hand, and there is none: build with --no-plugins")
    register(device)
    return with_plugins(serialized, PluginSizes.of(plan.manifest.model)), plugins
