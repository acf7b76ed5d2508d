"""From the name of a corpus to one token array."""
