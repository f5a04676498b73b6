"""The data sets: what is published where, how it is verified, read and stored."""
