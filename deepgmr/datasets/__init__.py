"""Pairs to learn from and to be measured on; import the rooms by name (`deepgmr.datasets.pairs.protocols`, ...)."""
