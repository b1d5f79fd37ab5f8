"""Benchmarks that print ratios as JSON."""
