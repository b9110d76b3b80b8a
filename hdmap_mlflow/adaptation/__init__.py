"""Repairing the transfer with k healthy maps of a target: the adapters, which maps they get, and what they bring."""
