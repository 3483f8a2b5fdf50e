"""Memory, streams, graphs and kernels of a CUDA device, through whichever binding is installed."""
