"""Filters that come with slimrl: which groups are trained on, and how groups leave the buffer."""
