"""The search for good params."""
