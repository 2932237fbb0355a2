"""Where hypotheses come from: each room turns two scans and a prior into motions or matches."""
