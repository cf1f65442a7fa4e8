"""Benchmarks: one module a suite, whose `rows()` yields what it measured beside its peer."""
