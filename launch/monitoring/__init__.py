"""Watching the machines: figures of every node, and the Grafana dashboard."""
