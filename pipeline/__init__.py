"""How a run happens: over DVC's graph, and never what a stage does."""
