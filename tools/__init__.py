"""Programs for development, run through ./dev."""
