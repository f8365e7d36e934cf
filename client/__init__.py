"""The client: the command line's way to a server over HTTP. It imports nothing of what serves."""
