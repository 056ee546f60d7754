"""The parts put together: built from a configuration, checked against each other, trained, sampled and exported."""
