"""What the tests stand on: real parts (libvirtd, QEMU, file systems, servers), started and removed again."""
