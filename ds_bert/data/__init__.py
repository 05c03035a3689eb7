"""Corpora, memory-mapped shards, sentence pairs, masks and samplers. Knows no engine."""
