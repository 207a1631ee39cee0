"""Runs, results and tables of the benchmark."""
