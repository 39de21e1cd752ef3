"""The samplers of other libraries, run on the same exact fields in one process."""
