"""A trained network at work: predict, export, serve, promote."""
