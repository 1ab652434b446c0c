"""Benchmarks of speed and size beside other systems: ``python -m benchmarks --help``. Not part of the wheel."""
