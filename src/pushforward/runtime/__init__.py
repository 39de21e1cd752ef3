"""The machine at hand: processes, devices, files."""
