"""Data: laws in the plane with known density, digits, arrays, folders of images."""
