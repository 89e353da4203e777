"""The use of a finished model."""
