"""The change feed: what changed in products and their stock, in an order and at a time at which every reader can see it."""
