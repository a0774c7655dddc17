"""The gateway: the parent process, and the workers that own clients. It knows no model.

`python -m gateway` is the parent (supervisor.py); it starts `python -m gateway.worker` and
`python -m gpu_service`, which meet by command line and descriptors and never by import.
"""
