"""What a model says to one prompt, written down for its signed manifest."""
