"""Metrics: surfaces against ground truth, rendered views against photographs."""
