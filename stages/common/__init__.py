"""Helpers for the stages: errors, files, locks, tables, URLs, progress, processor cores, the device and checkpoints."""
