"""Models: networks that are Fields or flow maps."""
