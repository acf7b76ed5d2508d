"""Writers as points, a strip for each model: what is erased of them, what opposes them, what is taken back of their DLA."""
