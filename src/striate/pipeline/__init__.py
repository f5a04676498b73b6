"""The context in which DVC runs a stage."""
