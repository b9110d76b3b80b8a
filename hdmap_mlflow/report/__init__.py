"""Finished runs -> transfer matrix, leaderboard, selection rules; as HTML, Markdown and CSV."""
