"""Striate: a reproducible pipeline for convolutional image classifiers."""
