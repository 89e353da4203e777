"""The parts of the report: its inputs, metric values, charts, sheets and page, and the blind review."""
