"""Networks and their configs, checkpoints, and predictions of a trained network."""
