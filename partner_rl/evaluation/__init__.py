"""Measures systems that rewrite: metrics, system scores, reports, plots and the run summary."""
