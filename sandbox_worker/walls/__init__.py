"""The kernel walls of a worker, and the spawner that puts them up before the interpreter starts.

Pure, from the bottom: `syscalls` (numbers), `bpf` (rules to filter program), `profile` (the rules), `elf`, `steps` (the
names of the lockdown's steps, for whoever reads an exit code), and `bpf_interpreter`, which tests use to see what a
filter decides. On the kernel: `linux` (ctypes), `landlock`, `exec_gate`, `machine` (what is there), `lockdown` (the
ordered steps), `workers` (from fork to wait), `control` (frames), `settle` (how a
helper process begins), `spawner` (the loop). A worker imports none of it.
"""
