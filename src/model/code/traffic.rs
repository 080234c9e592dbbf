//! Codes 20xx to 24xx, 30xx and 40xx: links, catalogs, names, proxied connections, authorization,
//! Kubernetes, limits.

use super::{Code, CodeInfo, codes};

codes! {
    NO_UDP_ANSWER = 2001, "no answer over UDP",
        "Packets to the peer's gateway are not answered: it is stopped, its address changed, or a firewall drops UDP.",
        "check that the gateway runs and that UDP reaches its port";
    HANDSHAKE_REFUSED = 2002, "handshake refused",
        "The other gateway answered and refused the TLS handshake: it does not know this cluster, or does not trust it any more.",
        "look at the peer's log; join again if it has forgotten this cluster";
    LINK_SUSPECT = 2003, "link suspect",
        "No proof of a round trip for a while. New connections go elsewhere, open ones are left alone.",
        "wait: it comes back by itself or goes down within seconds";
    LINK_DOWN = 2004, "link down",
        "No proof of a round trip for so long that its connections were reset. Dialling goes on.",
        "check the peer's gateway and the path to it";
    LINK_DUPLICATE = 2005, "duplicate connection closed",
        "Both sides dialled at once; one of the two connections, unused, was closed.",
        "nothing to do";
    PROTOCOL_VERSION = 2006, "no common protocol version",
        "The two gateways' releases are too far apart.",
        "update the older one: `tombolo version` on both sides";
    PEER_RESTARTED = 2007, "peer restarted",
        "The other gateway lost the connection's state, mostly by a restart. It is dialled again at once.",
        "nothing to do";
    ADDRESS_UNRESOLVED = 2008, "peer's address does not resolve",
        "The host name in a peer's address has no address record here.",
        "check the name server of this host, or advertise addresses instead of names";
    PEER_DRAINING = 2009, "peer draining",
        "The other gateway is about to stop: it finishes what is open and takes nothing new.",
        "nothing to do";
    PEER_TERMINATED = 2010, "peering ended by the peer",
        "The other cluster ended the peering.",
        "join again with a new token, if it is meant to come back";
    WRONG_GATEWAY = 2011, "another gateway answers at this address",
        "The gateway at the address belongs to another cluster than the one dialled.",
        "correct `addresses` in the `[advertise]` section of the peer";
    LINK_ONE_WAY = 2012, "link works in one direction only",
        "Packets of the peer arrive here, but nothing sent from here is acknowledged.",
        "check the firewall and NAT rules for UDP in the outbound direction";
    HEADER_INVALID = 2013, "stream header not understood",
        "A stream began with bytes that are no header, or with an unknown kind.",
        "compare `tombolo version` on both sides";

    ROW_TOO_LARGE = 2101, "export's record too large",
        "What the catalog would say of the export exceeds the size of a row, mostly by its labels.",
        "shorten the export's labels";
    CATALOG_QUOTA = 2102, "catalog quota reached",
        "The peer exports more than this cluster takes from one peer. What exceeds the quota is left out and named.",
        "raise the key named in the message in the `[limits]` section";
    NAME_RESERVED = 2103, "reserved name",
        "Names such as default/kubernetes and those of kube-system are never exported or imported.",
        "export the service under another name";
    DIGEST_MISMATCH = 2104, "catalogs differ",
        "The digest of what this gateway holds differs from the exporter's. A fresh snapshot was asked for.",
        "nothing to do; report it if it repeats";
    CATALOG_STALLED = 2105, "peer stalled",
        "The connection is alive but its session makes no progress.",
        "look at the peer's log; restarting its gateway is safe";
    ROW_UNSUPPORTED = 2106, "export uses something this release does not know",
        "The peer's release offers a kind of service or protocol that this one cannot serve.",
        "update this gateway";
    CATALOG_STALE = 2107, "catalog stale",
        "The peer has not been heard for a while; its last good catalog is still served.",
        "check the link: `tombolo peers`";
    CATALOG_WITHDRAWN = 2108, "catalog withdrawn",
        "The peer has not been heard for so long that its names were taken back.",
        "check the link: `tombolo peers`";
    CATALOG_RATE = 2109, "catalog changes too fast",
        "The peer sends changes faster than this cluster takes them from one peer; they are taken later.",
        "find out what flaps in the peer, or raise `rows_per_second` in the `[limits]` section";
    EXPORT_CONFLICT = 2110, "exports of one name disagree",
        "Clusters export the same name with properties that cannot be merged; the oldest export wins.",
        "make the exports alike: `tombolo explain NAME` names the clusters";
    ROW_INVALID = 2111, "export's record not understood",
        "The peer sent a record of a service that breaks a rule of its format; the others were taken.",
        "compare `tombolo version` on both sides";

    NO_SUCH_NAME = 2201, "no such name",
        "No cluster of the set exports that name, or none exports it to this one.",
        "list the names there are: `tombolo services`";
    VIRTUAL_IPS_EXHAUSTED = 2202, "virtual IPs exhausted",
        "Every address of this gateway's block has been given to an import.",
        "give it a larger range with `--virtual-ips`";
    PORT_NEEDS_PRIVILEGE = 2203, "port needs a privilege",
        "This process may not bind ports as low as the import's, so it listens on the port plus 20000, and SRV records say so.",
        "allow it: `sysctl net.ipv4.ip_unprivileged_port_start=0`, or give the program CAP_NET_BIND_SERVICE";
    LISTENER_LIMIT = 2204, "too many listeners",
        "Each import needs open files for its listeners, and the process may not open more.",
        "raise the limit of open files (`ulimit -n`)";
    UNSYNCED = 2205, "catalog not there yet",
        "A peer is known but nothing of it has been received since the start, so it cannot be said that the name does not exist.",
        "ask again in a few seconds";
    NAME_WITHOUT_CANDIDATE = 2206, "name without a place to go",
        "The name exists, but no cluster has a ready endpoint for it, so its virtual IP does not listen.",
        "see why each is left out: `tombolo explain NAME`";
    NAME_OUTSIDE_ZONE = 2207, "name outside the zone",
        "This server answers for its own zone only and refuses the rest.",
        "ask for NAME.NAMESPACE.svc.clusterset.local, or send other names to another server";
    VIRTUAL_PORT_TAKEN = 2208, "virtual IP's port taken",
        "Another program listens on the virtual IP's port, mostly one that binds all addresses.",
        "bind the other program to its own address instead of all";
    NAME_TOO_LONG = 2210, "name too long for DNS",
        "A DNS name has at most 253 characters, and a name the export would have in the zone has more.",
        "export the service under a shorter name, or use a shorter zone";

    NO_CANDIDATE = 2301, "no place to send the connection",
        "No endpoint here and no link to a cluster that has one.",
        "see why each is left out: `tombolo explain NAME`";
    OPEN_UNANSWERED = 2302, "the other gateway did not answer in time",
        "The connection's bytes were already sent when the link failed; sending them twice could do the work twice, so the client was reset.",
        "if the service's requests may be repeated, export it with `--idempotent`";
    REFUSED_BY_ALL = 2303, "refused everywhere",
        "Every candidate was tried and refused.",
        "look at the endpoints: `tombolo explain NAME` shows each with its reason";
    OPEN_TIMED_OUT = 2304, "no place found in time",
        "The candidates tried did not answer within the time a whole open may take.",
        "look at the links and endpoints: `tombolo explain NAME`";
    HEADER_TIMED_OUT = 2305, "stream without a header",
        "A peer opened a stream and did not send its header in time.",
        "compare `tombolo version` on both sides";
    STREAM_TRUNCATED = 2306, "connection cut",
        "A side went away in the middle; the other side was reset rather than finished, so that it can tell.",
        "look for a fault of that moment: `tombolo status`";
    ENDPOINT_REFUSED = 2307, "endpoint refused the connection",
        "Nothing listens at the endpoint's address.",
        "start the application, or correct the export's address";
    ENDPOINT_TIMED_OUT = 2308, "endpoint did not answer",
        "The endpoint did not take the connection within a second.",
        "check the application's load and the path to it";
    GATEWAY_DRAINING = 2309, "gateway draining",
        "This gateway is stopping and takes no new connections.",
        "nothing to do";

    NOT_GRANTED = 2401, "not granted",
        "The owner's grants do not let this cluster see or use the export. A peer is told the same as for an export that does not exist.",
        "ask the owner for a `[[grant]]` that names this cluster";
    EXPORT_UNKNOWN = 2402, "unknown export",
        "The export named by a stream does not exist, or not for this peer; which of the two is not told.",
        "look whether the name is still exported: `tombolo services`";
    IMPORT_REFUSED = 2403, "import refused",
        "An `[[import]]` rule of this cluster refuses the name from that peer.",
        "change the rule, if the name is wanted";
    CALLER_UNATTRIBUTED = 2404, "caller not identified",
        "The grant names callers, and the source gateway could not tell who the caller is.",
        "name the caller's address in a `[[caller]]` table of the source cluster";
    GUARDRAIL_REFUSED = 2405, "refused by a guardrail",
        "A guardrail of this cluster overrides the grants.",
        "ask whoever set the guardrail";

    KUBERNETES_CONFIG = 3001, "no way to the API server",
        "`kubernetes.enabled` is true, and neither a service account nor a kubeconfig says where the API server is.",
        "run the gateway in a pod with a service account, or set KUBECONFIG";
    API_SERVER_AWAY = 3002, "API server does not answer",
        "Objects of this kind cannot be followed: the API server is away, refuses, or does not know the kind. What was known stays true.",
        "look at the reason; for a kind it does not know, `kubectl apply` the custom resource definitions";

    KUBERNETES_REFUSED = 3003, "the API server did not do it",
        "The API server refused what was asked, does not know it, or could not be reached; or the gateway there could not.",
        "look at the message; `tombolo k8s check` looks at everything";
    KUBERNETES_CHECK = 3004, "checks of the cluster failed",
        "`tombolo k8s check` found something that keeps the gateway from working.",
        "do what stands below each failed check";

    CONNECTIONS_LIMIT = 4001, "too many connections",
        "The gateway proxies as many connections as it may.",
        "raise `connections` in the `[limits]` section";
    STREAMS_LIMIT = 4002, "too many streams",
        "A peer has as many streams open as one connection may have.",
        "raise `bidi_streams` in the `[limits]` section";
    OPEN_RATE_LIMIT = 4003, "streams opened too fast",
        "A peer opens more streams per second than one peer may.",
        "raise `opens_per_second` in the `[limits]` section";
    MEMORY_BUDGET = 4004, "memory budget reached",
        "The windows of all links together reached the budget; new windows do not grow.",
        "raise `memory` in the `[limits]` section";
    OPEN_FILES_LOW = 4005, "few open files allowed",
        "The process may open few files, which bounds its connections and listeners.",
        "raise the hard limit of open files (`ulimit -Hn`)";
    PEERS_LIMIT = 4006, "too many peers",
        "This cluster has as many peers as it may.",
        "raise `peers` in the `[limits]` section";
    HANDSHAKES_LIMIT = 4007, "too many handshakes at once",
        "More unfinished handshakes than allowed; new ones are refused until some finish.",
        "look for a flood of UDP packets at the port";
    MESSAGE_TOO_LARGE = 4008, "message too large",
        "The other side sent a message over the size its kind may have, and was cut off.",
        "compare `tombolo version` on both sides";
    QUEUE_FULL = 4009, "queue full",
        "Work arrives faster than the gateway finishes it, so the newest was refused.",
        "try again; look at the load of the host if it repeats";
}
