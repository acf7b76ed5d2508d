"""What is printed and how a command ends: lines, tables, progress, and what a signal does."""
