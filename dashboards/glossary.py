"""The terms of a model's page, explained once."""

from __future__ import annotations

WORDS_USED = """<details><summary>Words used here</summary><dl>
<dt>Projection ratio</dt><dd>At one token, how much of a writer's output another vector holds: its projection onto the
output, as a share of the output's length. 1 is all of it; below 0 the vector points against it.</dd>
<dt>β, pooled</dt><dd>The same over all measured tokens at once, tokens at which the writer writes much counting more.
Pooled numbers add up; medians over tokens do not, and the two can differ.</dd>
<dt>V-composed part</dt><dd>What a later head writes because the writer's output is in its value input, its attention
pattern kept: its output less what it writes with that output taken out.</dd>
<dt>Erased by reading</dt><dd>−β of the V-composed part of all later heads: how much they write against the writer because
they read it. It is a causal part, not the net change.</dd>
<dt>Eraser</dt><dd>A later head whose V-composed part is against the writer at most tokens; a significant one
takes out more than τ pooled over tokens, beyond chance. A head can be one without the other. Where it is a group that was
verified, the heads named.</dd>
<dt>Held-out</dt><dd>Measured on prompts that the scan, which chose the erasers, did not see.</dd>
<dt>DLA</dt><dd>Direct logit attribution: what an output adds to the difference of the logits of the two most likely next
tokens, if nothing later reads it.</dd>
</dl></details>
"""
"""As HTML, closed until it is asked for."""
