"""Whole systems as compositions of models: nothing here trains, and samplers are those of `sampling`."""
