"""Samples, in one call."""
