"""Rewards that come with slimrl."""
