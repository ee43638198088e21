"""The broker: the one process per host that opens the way to the network for workers that have a grant of it.

The seccomp filter of such a worker hands connect(2), bind(2) and listen(2), and opening files where names are granted,
to this process (seccomp_unotify(2)). It reads the arguments once, decides on its own copy, and acts itself, on its own
duplicate of the worker's socket: what the worker changes meanwhile, in its memory or its descriptors, changes nothing.

Pure: `policy` (what is allowed). On the kernel: `notify` (the notifications), `names` (resolving), `calls` (what each
call is answered), `service` (the threads of one worker), `server` (the process). It imports `walls`, which never
imports it; a worker imports neither.
"""
