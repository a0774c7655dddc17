"""What the processes of Earwire agree on: framing, messages, states, the audio arena.

Pure: no sockets, no clocks (shm.py, which maps and hands over memory, is the one exception).
gateway, gpu_service and clients import this package and never each other.
"""
