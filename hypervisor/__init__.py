"""What we know of libvirt. Nothing outside this package and engine/copying.py imports it."""
