"""Image classifiers that judge generated pictures; they know nothing of the generator."""
