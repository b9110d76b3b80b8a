"""What the flow costs, measured beside anomalib as it is; see RESULTS.md."""
