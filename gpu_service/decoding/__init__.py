"""From encoder frames to words: the host decoders, which are also the oracle of the GPU's."""
