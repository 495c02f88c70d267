"""Faults, injected on lab hosts: a run says what is wrong, breaks nothing, and the next one finishes the job."""
