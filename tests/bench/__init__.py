"""The benchmark: gpuprov beside pyinfra and a shell script, on lab hosts. Run by ./dev bench."""
