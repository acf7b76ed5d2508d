"""Maps of one model: every writer against every state, component or later head."""
