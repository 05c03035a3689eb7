"""Model families: their layers, Hugging Face names and initialisation."""
