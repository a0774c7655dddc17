"""The GPU engine: kernels, graphs and what runs them on one device."""
