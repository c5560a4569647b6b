"""The report: one table and one self-contained page over all runs."""
