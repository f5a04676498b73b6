"""Experiments side by side: tables, comparisons, the Pareto front and the gate."""
