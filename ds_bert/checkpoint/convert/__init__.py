"""Models from other systems and for other systems, by way of plain Hugging Face folders."""
