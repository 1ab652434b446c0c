"""Benchmarks of speed and size compared with other systems: ``python -m benchmarks --help``. Not part of the wheel."""
