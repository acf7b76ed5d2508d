"""The second stage: for the writers that matter, everything that shows whether, how and by whom they are erased.

Erasers are chosen on the scan's prompts, and so are those of the nulls that stand beside the writers: substages ``covariance``
(how the stream varies where writers write) and ``placebo`` (which heads take out what stands in a writer's place). All else is
measured on other prompts where the corpus holds as many, in three substages: ``group`` (verified writers and their erasers),
``trust`` (every writer: what replacing it does to the logits), ``adversarial`` (places of high attribution under other prompts'
inputs, and token by token up to there). A measure is one file: it says what a row is, takes prompts in, merges, and makes its
tables, if it has any.
"""
