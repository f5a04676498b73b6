"""What surrounds the work of a stage."""
