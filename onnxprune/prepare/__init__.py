"""Before the trace: functions are inlined and weights that the graph computes are computed."""
