"""The CUDA sources of the GPU engine: .cu files, and what they share in .cuh files."""
