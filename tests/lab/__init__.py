"""A lab of real systemd hosts on this machine: see README.md."""
