"""One run: set up, identified, executed; and what is done with it when it has finished."""
