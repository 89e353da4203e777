"""The parts of the report: its inputs, charts, sheets and page, and the blind review."""
