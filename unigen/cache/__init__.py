"""The outputs of frozen encoders, kept in a folder that runs share."""
