"""What the task ``detection`` is made of."""
