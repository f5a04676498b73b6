"""From a network and images to a trained network."""
