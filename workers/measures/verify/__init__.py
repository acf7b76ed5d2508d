"""The second stage: for the writers that matter, everything that shows whether, how and by whom they are erased.

Erasers are chosen on the scan's prompts and measured here on others. A substage is one module whose function takes a shard
of prompts to plain states, which merge in plan order: ``group`` (verified writers and their erasers), ``trust`` (every
writer: what resampling it does to the logits), ``adversarial`` (places of high attribution under other prompts' inputs, and
token by token up to there).
``tables`` makes tables of the merged states.
"""
