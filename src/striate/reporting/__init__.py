"""Figures, the report and the model card."""
