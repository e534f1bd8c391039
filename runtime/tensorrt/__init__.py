"""The TensorRT back end: engines of a plan, checked against the machine, and the loop over them on the device."""
