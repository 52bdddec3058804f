"""Evaluation: what is measured, and what weights are chosen."""
