"""Scripts: fit, unlearn, compare, demo and their helpers; each is run as `python -m experiments.NAME`."""
