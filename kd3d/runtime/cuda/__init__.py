"""Points to pillars, decoding, suppression and neighbour tables on a CUDA device: kernels and what launches them."""
