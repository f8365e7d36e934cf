"""What Wok gives a plugin when Wok is there: command line, HTTP server, authentication."""
