"""Optuna studies over a model's settings. The only room that talks to Optuna."""
