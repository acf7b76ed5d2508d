"""Which bars of a direct logit attribution (DLA) survive, on somebody's own prompts and answers; it takes torch alone."""
