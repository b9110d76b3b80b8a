"""Scores and what is computed from them: metrics, intervals, cards, figures. Nothing here trains or records."""
