"""Coverage-guided fuzzing of the parsers that `tests/parsers.py` lists."""
