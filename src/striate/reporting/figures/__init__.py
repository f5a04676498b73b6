"""Figures: one file each, found by themselves; `registry` says how to add one."""
