"""Measurements: latency, load, idle connections, garbage collection. Not part of the wheel.

Run from a checkout as `python -m bench.live`, `bench.gateway`, `bench.idle`, `bench.gc_pauses`.
README.md says what each number means and how it can be wrong.
"""
