"""Prefect's flows over DVC's graph: reproduce, experiment and sweep."""
