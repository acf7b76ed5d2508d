"""What an audit shows: the bars of a direct logit attribution (DLA), and which of them to believe."""
