"""Weights between Hugging Face checkpoints and Megatron's layout, bit for bit."""
