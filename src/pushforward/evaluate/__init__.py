"""How good samples are: distances between laws, agreement with a classifier."""
