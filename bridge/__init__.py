"""Inside Wok: what we use of it, and Kimchi's own clone button on our engine. Wok is loaded when it is asked for."""
