"""How every session of ONNX Runtime is opened."""

from typing import Any

_SILENT = 4  # what goes wrong comes as an exception; a log line would show the names in a graph as they are


def session_options(threads: int) -> Any:
    """Options of a session with so many threads that says nothing itself."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Sessions have a pool each: threads of one must not spin while another works.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options
