"""For plugin authors: fixtures and conformance checks."""
