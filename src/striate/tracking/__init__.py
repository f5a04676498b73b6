"""Experiments as DVC keeps them, and MLflow's runs of them."""
