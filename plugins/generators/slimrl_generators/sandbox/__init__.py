"""The process around one program of a model's.

Every call waits for its imports, so there are few: no pathlib, typing, collections or contextlib.
"""
