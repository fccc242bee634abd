"""Advantage estimators that come with slimrl."""
