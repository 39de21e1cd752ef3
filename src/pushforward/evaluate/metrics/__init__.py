"""Distances between sets of samples, and other figures; each file is one of them."""
