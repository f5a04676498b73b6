"""The networks, their sizes, their checkpoints, and what is asked of a trained one."""
