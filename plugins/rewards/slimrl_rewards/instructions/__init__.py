"""The instructions whose following a program can check: 25 of IFEval (arXiv 2311.07911), 58 of IFBench (2507.02833)."""
