"""Models x conditions x sources x seeds, each exactly once."""
