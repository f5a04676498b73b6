"""params.yaml and recipes: reading, checking, and what may be together."""
