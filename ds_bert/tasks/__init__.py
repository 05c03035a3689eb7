"""What a task is: its loss, its measures, its batches."""
