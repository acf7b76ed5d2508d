"""From a model as its files hold it to processed weights: refused or folded, centred, and checked."""
