"""What talks to an Earwire server: native clients, microphone, command line."""
