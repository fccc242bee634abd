"""Losses, reductions and packing: pure functions that know nothing of Megatron, Ray or files."""
