"""Register point clouds by matching Gaussian mixtures."""
