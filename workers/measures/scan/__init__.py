"""The first stage: every component as a writer."""
