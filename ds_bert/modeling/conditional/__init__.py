"""CA-MTL: a BERT whose attention, norms and a bottleneck are conditioned on each example's task.

Pilault, El hattami, Pal 2021, "Conditionally Adaptive Multi-Task Learning" (openreview de11dbHzAMF). Everything is
computed per example, so that a micro-batch may hold any mix of tasks.
"""
