"""The second stage: for the writers that matter, everything that shows whether, how and by whom they are erased.

Erasers are chosen on the scan's prompts and measured here on others, in three substages: ``group`` (verified writers and their
erasers), ``trust`` (every writer: what replacing it does to the logits), ``adversarial`` (places of high attribution under
other prompts' inputs, and token by token up to there). A measure is one file: it says what a row is, takes prompts in, merges,
and makes its tables.
"""
