"""Maps in: find, check, read, simulate and serve them."""
