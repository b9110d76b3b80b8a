"""Anomaly detection on gearbox health data maps (HDMAP): one flow and one honest record for every model."""

__version__ = "0.1.0"
