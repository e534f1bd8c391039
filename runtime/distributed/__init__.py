"""Batches drawn by the workers of a Ray cluster, while the run that asks for them plans, writes and continues."""
