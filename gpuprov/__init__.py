"""gpuprov: GPU hosts with a pinned Docker and NVIDIA container stack, proven on each host."""
