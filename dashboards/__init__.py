"""What people see: tables in, figures and self-contained pages out. Knows tables alone; no torch, no ray."""
