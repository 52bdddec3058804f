"""Where views are stored and candidates found."""
