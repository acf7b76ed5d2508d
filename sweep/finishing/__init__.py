"""From finished shards to tables and pages: of one model, and of the models of several sweeps."""
