"""The studio: a page on this machine alone, on which one tries models, previews experiments and follows runs."""
