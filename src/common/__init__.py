"""Shared by all stages: data sets, files, errors, randomness, devices, processes."""
