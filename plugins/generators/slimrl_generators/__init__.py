"""Generators that come with slimrl: how a sample is filled by talking to the engine."""
