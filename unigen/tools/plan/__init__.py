"""The resource estimate: parameters, memory, FLOPs and time of a run, before anything is allocated."""
