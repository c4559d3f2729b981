"""Does quality control find harm? The study behind README's table and notebook 07: `python -m benchmarks.detection`."""
