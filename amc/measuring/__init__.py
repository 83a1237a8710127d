"""Latency tables, measured: networks that are timed, and what explains their times."""
