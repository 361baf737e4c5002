"""The engine room: the one place that starts, times, cancels, drains and counts tasks."""
