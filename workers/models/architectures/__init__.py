"""Families of models, one file each. To add one, start from ``architecture.py`` and copy ``gpt2.py``."""
