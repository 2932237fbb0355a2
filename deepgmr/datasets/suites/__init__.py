"""Fixed pairs to be measured on, and the formats they come in."""
