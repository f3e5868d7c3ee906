"""The metrics of a system's rewrites, one a file, all pure functions of texts or scores.

Axis legend: `_N` rewritten responses, `_D` embedding dimensions.
"""
