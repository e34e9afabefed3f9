"""``wharf runtime``: the OCI command line (runtime.md), with runc's verbs and flags, so that podman, conmon, dockerd
and containerd's shims can run containers on this engine's runtime.

Nothing of an engine is involved: no database, no launcher, no monitor, no image. A container is a bundle and a folder
below ``--root``; its first process is the caller's to watch.
"""
