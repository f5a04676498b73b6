"""From logits and labels to scores."""
