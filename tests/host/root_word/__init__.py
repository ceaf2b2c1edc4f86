"""What holds only on root's word, with real accounts, slices, sudo and archives, on one stack (conftest.py)."""
