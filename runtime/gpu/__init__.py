"""The loop on a GPU: memory, streams, CUDA graphs, and the back end over them, whatever runs the graphs of a plan."""
