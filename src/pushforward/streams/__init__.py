"""Batches as a function of the step."""
