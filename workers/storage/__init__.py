"""Files that are whole or absent, stores of finished shards, states as bytes."""
