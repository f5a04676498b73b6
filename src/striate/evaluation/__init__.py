"""Test metrics, and the predictions they are computed from."""
