"""Where a run's metrics go: `metrics.jsonl` and `samples.jsonl`, TensorBoard, W&B and a line on the terminal.

Only the driver tracks; Ray's workers never see a tracker. Texts (the before/after rows) are written to the run folder
and to W&B, at most `tracking.sample_rows` a step; none at 0 or with `tracking.redact`.
"""
