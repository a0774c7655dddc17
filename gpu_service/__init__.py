"""The recognition service: one process that owns the accelerator, or one CPU engine.

It reads audio where the gateway put it and answers with hypotheses over a Unix socket. It opens
no network socket and knows no client protocol.
"""
