"""What a plan computes beside what its reference computes: replay, comparison with derived bounds, diversity."""
