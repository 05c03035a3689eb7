"""Schedules as instruction streams. Pure Python: no torch."""
