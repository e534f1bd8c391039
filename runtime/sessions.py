"""How every session of ONNX Runtime is opened."""

from typing import Any

_ERRORS_ONLY = 3


def session_options(threads: int) -> Any:
    """Options of a session with so many threads that says nothing but errors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Sessions have a pool each: threads of one must not spin while another works.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options
