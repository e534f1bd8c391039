"""Names that the plugins, the nodes of the graph and the sidecar share."""

NAMESPACE = "hieramp"
SALIENCY_BIAS = f"{NAMESPACE}::SaliencyBias"
SAMPLE_TOP_K_TOP_P = f"{NAMESPACE}::SampleTopKTopP"
SIZES = "sizes"  # the one attribute of either plugin
