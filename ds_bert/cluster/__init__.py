"""Several machines: their hostfile, what travels between them, which ranks go where, and whether they are alike."""
