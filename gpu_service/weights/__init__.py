"""Weights as users have them, read without trusting them, under one canonical set of names."""
