"""Paths, predictions, fields, times, noise and exact laws: all that the rest of the library stands on."""
