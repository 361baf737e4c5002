"""Runs for eyes: a timeline, a table, a report. They read finished results, and nothing else."""
