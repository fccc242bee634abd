"""The embedded engine: SGLang's HTTP contract wherever torch runs."""
