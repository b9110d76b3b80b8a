"""The models of our own, and those of anomalib that needed mending: a file each."""
