"""Layouts of a dataset on disk, one a file; `layouts` lists them."""
