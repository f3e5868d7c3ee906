"""Measurements that need the real program: beside another trainer, over sizes, over rows.

Each is a command, such as `python -m benchmarks.vs_trl --help`, run at the top of a checkout.
"""
