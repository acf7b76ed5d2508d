"""Where shards are measured: in this process, or by Ray workers."""
