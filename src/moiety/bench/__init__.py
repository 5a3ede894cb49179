"""moiety beside what else a user could pick, on the same work and machine: ``moiety bench``.

workloads   the table of what is measured: PyTorch modules and their inputs
networks    modules of the table, and their weights as peers take them
jobs        a workload on disk, and how an answer is judged
material    makes one: the module, its inputs, and its answer in float64
peers       the other systems: their environments, made beside the project, and how to run them
sides       one measurement of one side, as a process
ours        moiety's side: three parties, real processes, mutual TLS
interval    of its run, what peers time too: from shares to shares
plain       the floor: PyTorch itself, one thread
machine     where it was measured, and what else was running meanwhile
results     what was measured, kept as it comes
driver      sides in turn, workload after workload
report      medians, ratios, table
bars        the plot
runners     scripts that run in the peers' environments
"""
