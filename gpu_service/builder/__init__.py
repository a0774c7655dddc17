"""Offline: from a model to an engine folder that a GPU service runs. `earwire build`."""
