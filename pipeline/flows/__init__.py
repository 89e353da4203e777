"""The Prefect flows that run DVC's stages: reproduce, experiment and sweep."""
