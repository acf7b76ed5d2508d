"""What is drawn from tables: one function for each fact, for pages, MLflow and the command line alike."""
