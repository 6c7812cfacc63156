"""Metrics, bootstrap intervals, comparison of runs, results files, cross-validation."""
