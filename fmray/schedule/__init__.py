"""Run jobs by the clock: each tick once, whatever is killed or started twice."""
