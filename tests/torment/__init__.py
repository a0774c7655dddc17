"""The network tormentor: a proxy that does to bytes what bad networks do, and tests with it."""
