"""Sweeps in stages: tunes arms, adds seeds until the question is answered, and runs the lines on this machine."""
