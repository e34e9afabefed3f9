"""Both databases as trees. Migrations are numbered; index N of a tuple brings version N to version N + 1.

wharf.db (durable, ``synchronous=FULL``)::

    container(id)                name unique; what was asked for, and the last state that was saved
    ├─ spec        JSON of model.ContainerSpec, immutable
    ├─ config      JSON of what was decided at creation: argv, hostname, layers, ids … immutable
    └─ state       JSON of what changes: State, pid, times, exit code, endpoints, ports
    network(id)                  name unique; driver, subnet, bridge
    image(id)                    the configuration blob's digest, and the blob itself
    ├─ image_layer(image, position) → layer, lowest first
    ├─ tag(reference)            full reference → image
    └─ repo_digest(reference)    repository@digest → image
    layer(id)                    an unpacked layer, by its diffID; by its chainID where its archive leaves out parent
                                 directories (implied=1). durable=1 once synced, else made again after a power cut
                                 (boot_id)
    blob(digest)                 a blob that is kept: manifests and configurations

run.db (volatile, ``synchronous=OFF``; thrown away when the host has booted since)::

    lease(network, offset)       address = subnet + offset, to a container
    endpoint(container, network) veth, address, MAC
    port(protocol, host_ip, host_port) → container's address and port
"""

DISK: tuple[str, ...] = (
    """
    CREATE TABLE container (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, image TEXT NOT NULL, created REAL NOT NULL,
        spec TEXT NOT NULL, config TEXT NOT NULL, state TEXT NOT NULL
    );
    CREATE INDEX container_image ON container(image);
    CREATE TABLE network (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, driver TEXT NOT NULL, created REAL NOT NULL,
        subnet TEXT NOT NULL, gateway TEXT NOT NULL, bridge TEXT NOT NULL, mtu INTEGER NOT NULL,
        internal INTEGER NOT NULL, labels TEXT NOT NULL
    );
    CREATE TABLE image (
        id TEXT PRIMARY KEY, manifest_digest TEXT NOT NULL, config TEXT NOT NULL, created REAL NOT NULL,
        architecture TEXT NOT NULL, os TEXT NOT NULL
    );
    CREATE TABLE layer (
        id TEXT PRIMARY KEY, diffid TEXT NOT NULL, size INTEGER NOT NULL, implied INTEGER NOT NULL,
        durable INTEGER NOT NULL, boot_id TEXT NOT NULL
    );
    CREATE TABLE image_layer (
        image TEXT NOT NULL REFERENCES image(id) ON DELETE CASCADE, position INTEGER NOT NULL,
        layer TEXT NOT NULL REFERENCES layer(id), PRIMARY KEY (image, position)
    );
    CREATE INDEX image_layer_layer ON image_layer(layer);
    CREATE TABLE tag (
        reference TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES image(id) ON DELETE CASCADE
    );
    CREATE TABLE repo_digest (
        reference TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES image(id) ON DELETE CASCADE
    );
    CREATE TABLE blob (
        digest TEXT PRIMARY KEY, size INTEGER NOT NULL, media_type TEXT NOT NULL
    );
    """,
)

RUN: tuple[str, ...] = (
    """
    CREATE TABLE lease (
        network TEXT NOT NULL, offset INTEGER NOT NULL, container TEXT NOT NULL,
        PRIMARY KEY (network, offset)
    );
    CREATE INDEX lease_container ON lease(container);
    CREATE TABLE endpoint (
        container TEXT NOT NULL, network TEXT NOT NULL, ip TEXT NOT NULL, prefix_len INTEGER NOT NULL,
        gateway TEXT NOT NULL, mac TEXT NOT NULL, interface TEXT NOT NULL,
        PRIMARY KEY (container, network)
    );
    CREATE TABLE port (
        protocol TEXT NOT NULL, host_ip TEXT NOT NULL, host_port INTEGER NOT NULL, container TEXT NOT NULL,
        container_ip TEXT NOT NULL, container_port INTEGER NOT NULL,
        PRIMARY KEY (protocol, host_ip, host_port)
    );
    CREATE INDEX port_container ON port(container);
    CREATE TABLE cursor (network TEXT PRIMARY KEY, offset INTEGER NOT NULL);
    """,
)
