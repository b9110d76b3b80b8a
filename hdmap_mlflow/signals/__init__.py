"""From vibration and a phase reference to HDMAP-style maps."""
