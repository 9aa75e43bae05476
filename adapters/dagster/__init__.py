"""Dagster: the pipeline as software-defined assets, driven over GraphQL."""
