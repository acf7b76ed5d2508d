"""What each table is: one file for the tables of one measure, each with its ``TABLES``; the registry finds it."""
