"""Both databases as trees. Migrations are numbered; index N of a tuple brings version N to version N + 1.

wharf.db (durable, ``synchronous=FULL``)::

    container(id)                name unique; what was asked for, and the last state that was saved
    ├─ spec        JSON of model.ContainerSpec, immutable
    ├─ config      JSON of what was decided at creation: argv, hostname, layers, ids … immutable
    └─ state       JSON of what changes: State, pid, times, exit code, endpoints, ports
    network(id)                  name unique; config = JSON of the rest of model.Network
    image(id)                    the configuration blob's digest, and the blob itself; added = when it came here, used =
    │                            when a container was last made or started of it, or removed (seconds since the epoch)
    ├─ image_layer(image, position) → layer, lowest first
    ├─ tag(reference)            full reference → image
    └─ repo_digest(reference)    repository@digest → image
    layer(id)                    an unpacked layer, by its diffID; by its chainID where its archive leaves out parent
                                 directories (implied=1). durable=1 once synced, else made again after a power cut
                                 (boot_id). disk = bytes that its folder occupies, -1 until somebody has asked
    └─ layer_blob(layer, digest) a blob that was seen to hold the layer: downloaded and unpacked, or made and sent. What
                                 manifests say is not enough: a layer that is here is not fetched to compare
    blob(digest)                 a blob that is kept: manifests and configurations

run.db (volatile, ``synchronous=OFF``; thrown away when the host has booted since)::

    lease(network, address)      to a container
    endpoint(container, network) info = JSON of model.EndpointInfo; its interface on the host, for those who look
    port(protocol, host_ip, host_port) → container's address and port; host_ip "" is every IPv4, "::" every IPv6 address
    cursor(network, subnet)      offset of the address that was given out last
    forwarding(version)          of IP, which this host routes because we switched it on (core.net.guard)
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
    # What came before this version counts as new: nobody knows when it was last used.
    """
    ALTER TABLE image ADD COLUMN added REAL NOT NULL DEFAULT 0;
    ALTER TABLE image ADD COLUMN used REAL NOT NULL DEFAULT 0;
    UPDATE image SET added = CAST(strftime('%s', 'now') AS REAL);
    ALTER TABLE layer ADD COLUMN disk INTEGER NOT NULL DEFAULT -1
    """,
    """
    CREATE TABLE layer_blob (
        layer TEXT NOT NULL REFERENCES layer(id) ON DELETE CASCADE, digest TEXT NOT NULL, PRIMARY KEY (layer, digest)
    ) WITHOUT ROWID
    """,
    """
    ALTER TABLE network ADD COLUMN config TEXT NOT NULL DEFAULT '{}';
    UPDATE network SET config = json_object(
        'subnets', json_array(json_object('subnet', subnet, 'gateway', gateway)), 'bridge', bridge, 'mtu', mtu,
        'internal', json(iif(internal, 'true', 'false')), 'labels', json(labels)
    );
    ALTER TABLE network DROP COLUMN subnet;
    ALTER TABLE network DROP COLUMN gateway;
    ALTER TABLE network DROP COLUMN bridge;
    ALTER TABLE network DROP COLUMN mtu;
    ALTER TABLE network DROP COLUMN internal;
    ALTER TABLE network DROP COLUMN labels
    """,
    # Places on networks know the network's id; until then there was one, and a container was on it or on none.
    """
    UPDATE container SET state = json_set(state, '$.endpoints[0].network_id', network.id) FROM network
    WHERE network.name = json_extract(state, '$.endpoints[0].network')
        AND coalesce(json_extract(state, '$.endpoints[0].network_id'), '') = ''
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
    # Containers that run while the program is renewed keep their addresses. There was one network until then.
    """
    ALTER TABLE endpoint RENAME TO endpoint1;
    DROP TABLE lease;
    DROP TABLE cursor;
    CREATE TABLE lease (
        network TEXT NOT NULL, address TEXT NOT NULL, container TEXT NOT NULL, PRIMARY KEY (network, address)
    ) WITHOUT ROWID;
    CREATE INDEX lease_of ON lease(container);
    CREATE TABLE endpoint (
        container TEXT NOT NULL, network TEXT NOT NULL, interface TEXT NOT NULL, info TEXT NOT NULL,
        PRIMARY KEY (container, network)
    );
    CREATE INDEX endpoint_network ON endpoint(network);
    CREATE TABLE cursor (network TEXT NOT NULL, subnet TEXT NOT NULL, offset INTEGER NOT NULL,
        PRIMARY KEY (network, subnet));
    INSERT INTO lease SELECT network, ip, container FROM endpoint1;
    INSERT INTO endpoint SELECT container, network, interface, json_object(
        'network', 'bridge', 'network_id', network, 'ip', ip, 'prefix_len', prefix_len, 'gateway', gateway, 'mac', mac,
        'interface', interface) FROM endpoint1;
    DROP TABLE endpoint1
    """,
    "CREATE INDEX port_number ON port(protocol, host_port)",
    "CREATE TABLE forwarding (version INTEGER PRIMARY KEY)",
)
