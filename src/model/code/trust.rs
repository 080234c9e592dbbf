//! Codes 12xx and 13xx: tokens and joining, identity and trust.

use super::{Code, CodeInfo, codes};

codes! {
    TOKEN_EXPIRED = 1201, "token expired",
        "A token is good for a short time, by the clock of the cluster that made it.",
        "make a new one there: `tombolo token create`";
    TOKEN_DAMAGED = 1202, "token damaged",
        "The token's checksum does not match: it was cut or changed while copying. Nothing was sent.",
        "copy the whole line again, or pipe it: `tombolo join -`";
    TOKEN_REDEEMED = 1203, "token already redeemed by another",
        "A token is good for one cluster, and another one redeemed it first. If you do not know that cluster, the token was stolen.",
        "make a new one: `tombolo token create`; look at `tombolo token list` for who redeemed this one";
    TOKEN_REVOKED = 1204, "token revoked",
        "The cluster that made the token withdrew it.",
        "ask there for a new one: `tombolo token create`";
    TOKEN_ISSUER_UNREACHABLE = 1205, "nobody answers at the token's addresses",
        "No gateway answered over UDP at any address in the token: it is stopped, the address is not reachable from here, or a firewall drops UDP.",
        "check that the gateway runs and that UDP reaches it; its addresses stand in the message";
    TOKEN_PIN_MISMATCH = 1206, "the answering gateway is not the token's",
        "Something answered at the token's address but does not hold the key the token pins: another cluster took over the address, or somebody stands between. Nothing was sent.",
        "make a new token on the cluster you mean to join";
    JOIN_DENIED = 1207, "join denied",
        "The other side refused without a reason: it tells reasons only to those who prove they hold a token it made.",
        "make a new one there: `tombolo token create`";
    CLUSTER_ID_TAKEN = 1208, "cluster id taken",
        "A cluster id is unique in its clusterset, and the set has another cluster of this id. Nothing was changed on either side.",
        "start this cluster under another id: `tombolo run --cluster ID` with a fresh `--state`; if it is the same cluster with new keys, ask for a token made with `tombolo token create --for ID --rejoin`";
    TOKEN_IS_OURS = 1209, "token made by this cluster",
        "The token names this cluster's own trust domain: a cluster does not join itself.",
        "run `tombolo join` on the other cluster";
    NO_ROUTABLE_ADDRESS = 1210, "no address another cluster could reach",
        "A token carries this gateway's addresses, and every known one is a loopback, link-local or private address.",
        "set `addresses` in the `[advertise]` section, or accept private ones with `--allow-private`";
    TOKEN_FOR_ANOTHER = 1211, "token made for another cluster",
        "The token was bound to a cluster id when it was made, and this cluster has another.",
        "make one for this cluster, or one without the binding: `tombolo token create`";
    TRUST_DOMAIN_MISMATCH = 1212, "unexpected trust domain",
        "The other side showed another trust domain than the token, or an earlier join, has bound.",
        "compare the fingerprints with the other cluster's operator, then join with a new token";
    TRUST_CONFLICT = 1213, "root shared by two trust domains",
        "Two trust domains, or two claims to one, would share or change a root. One cluster could then speak for the other, so it is refused and nothing changes.",
        "find out which cluster holds the root by right: copied state folders are the usual cause; a known peer with new roots comes back by `tombolo peer re-trust`";
    TOKEN_NOT_A_TOKEN = 1214, "not a token",
        "Tokens begin with tmb1_ and are one line.",
        "paste the line that `tombolo token create` printed";
    TOKEN_NEWER = 1215, "token of a newer release",
        "The token has a version this release does not know.",
        "update this cluster, or make the token with the older release";
    JOIN_TIMED_OUT = 1216, "joined, but the peer is not usable yet",
        "Both sides exchanged trust, but no link with a first catalog came about in the time the command waits. Trying goes on in the background.",
        "look at `tombolo peers`, and check that UDP passes between the gateways";
    APPROVAL_PENDING = 1217, "waiting for approval",
        "The peer was introduced by a member that `auto_approve` does not name, or its token asks for approval, so a person decides.",
        "`tombolo peer approve ID`, or add the introducer to `auto_approve` and reload";
    PROOF_INVALID = 1218, "proof of a key invalid",
        "What was signed is not this very connection and request, or not by the gateway's key: it was relayed or changed on its way.",
        "join again over a path without a relay that ends TLS";
    ALREADY_JOINED = 1219, "already joined",
        "This cluster is already a peer of the one that made the token. Nothing was changed, and the token is still good.",
        "nothing to do: `tombolo peers` shows it";
    TOKEN_ON_COMMAND_LINE = 1220, "token on the command line",
        "Arguments can be read by every user of the host and stay in the shell's history. The token was taken all the same.",
        "pipe it instead: `tombolo join -`";
    JOIN_MESSAGE_INVALID = 1221, "join message not understood",
        "The other side sent a join message that cannot be read or breaks a rule of its format.",
        "compare `tombolo version` on both sides";
    TOKENS_TOO_MANY = 1222, "too many tokens outstanding",
        "The number of unredeemed tokens is bounded.",
        "revoke some: `tombolo token list`, `tombolo token revoke ID`";
    TOKEN_LIFE_INVALID = 1223, "token life out of range",
        "A token lives at least one minute and at most 24 hours.",
        "choose a `--ttl` between 1m and 24h";
    NO_SUCH_TOKEN = 1224, "no such token",
        "This cluster has no token of that id.",
        "list them: `tombolo token list`";
    JOIN_BUSY = 1225, "too many joins at once",
        "The number of join exchanges in progress is bounded.",
        "try again in a few seconds";
    INTRODUCTION_REFUSED = 1226, "introduction refused",
        "A member passed on a record of a cluster that is not signed by that cluster's root, has expired, or exceeds what one member may introduce; or the settings refuse introductions.",
        "join that cluster with a token of its own";
    NO_PATH = 1227, "neither side can dial",
        "The peer was introduced, but no gateway of either cluster reaches one of the other's addresses.",
        "make one side reachable by UDP and set `addresses` in its `[advertise]` section";
    NO_SUCH_PEER = 1228, "no such peer",
        "This cluster has no peer of that id.",
        "list them: `tombolo peers`";
    TOKEN_INVALID = 1229, "token breaks a rule of its format",
        "The token arrived whole, but it says something no token may say: its maker had a fault.",
        "compare `tombolo version` on both sides, then make a new token";
    TOKEN_USES_INVALID = 1230, "token uses out of range",
        "A token is good for at least one and at most 32 clusters.",
        "choose `--uses` between 1 and 32";
    PEER_NOT_FIT = 1231, "not in this state of the peer",
        "What was asked means nothing for a peer in its present state. Nothing was changed.",
        "look at its state: `tombolo peers`";

    IDENTITY_REFUSED = 1301, "identity refused",
        "The certificate shown is not a gateway's SVID: it must have exactly one URI name, a SPIFFE ID of a gateway.",
        "update the peer's gateway, or stop what answers in its place";
    TRUST_DOMAIN_UNKNOWN = 1302, "unknown trust domain",
        "The certificate names a trust domain that is no peer of this cluster.",
        "join the two clusters: `tombolo token create` on one, `tombolo join -` on the other";
    CHAIN_NOT_TRUSTED = 1303, "certificate not signed by its trust domain",
        "The chain does not end in a root this cluster has for that trust domain: the root was replaced without telling, or somebody else signed it.",
        "compare fingerprints with the peer's operator, then join again with a new token";
    ROOT_EXPIRED = 1304, "root expired",
        "Every root this cluster has for the trust domain has run out.",
        "join again with a new token from that cluster";
    SVID_EXPIRED = 1305, "certificate expired",
        "A gateway's certificate has run out: its renewal fails, or one of the two clocks is wrong.",
        "compare the clocks of both hosts";
    DISTRUSTED = 1306, "trust withdrawn",
        "The trust in this peer was withdrawn, here or there. Its connections were closed and its names are gone.",
        "join again with a new token, if it is meant to come back";
    SVID_RENEWAL_FAILING = 1307, "certificate renewal failing",
        "This gateway could not renew its own certificate. Links stay up until the current one runs out.",
        "read the reason in the message; a full or read-only state folder is the usual one";
    CLOCK_SKEW = 1308, "clocks differ too much",
        "The clocks of the two hosts differ by more than the five minutes that certificates allow.",
        "synchronise both clocks";
    REAUTHENTICATION_REFUSED = 1309, "renewed identity refused",
        "The peer's new certificate does not belong to the gateway of this connection, so the connection keeps its old one and ends with it.",
        "compare `tombolo version` on both sides";
    BUNDLE_REFUSED = 1310, "trust bundle refused",
        "A peer's or joiner's bundle is older than the known one, too large, or holds a root that cannot be used. Nothing was changed.",
        "look at the peer's log for its last rotation";
    ROOT_EXPIRES_SOON = 1311, "root expires soon",
        "A root is near its end and no successor has been seen.",
        "look at `tombolo peers` for whose it is, and ask there for a rotation";
    KEY_MISMATCH = 1312, "key does not belong to certificate",
        "A certificate in the state folder and the key beside it are not of one pair.",
        "restore both from the same backup";
    PEER_REVOKED = 1313, "peer revoked",
        "The peer's trust domain and keys are blocked on this cluster.",
        "use a new identity there: a fresh `--state`, then a new token";
    IDENTITY_UNUSABLE = 1314, "identity in the state folder unusable",
        "A key or certificate in the state folder cannot be read or does not fit the others. A new identity is never made in silence.",
        "restore the folder `identity` from a backup, or start afresh with another `--state` and join again";
    KEY_NOT_MADE = 1315, "key or certificate cannot be made",
        "The system has no randomness left, or the clock is out of the range of certificates.",
        "check the clock of this host, then start the gateway again";
    ROTATION_FAILING = 1316, "rotation of the root failing",
        "A step of the rotation could not be carried out. The roots in use stay as they are, and the step is tried again.",
        "read the reason in the message; a full or read-only state folder is the usual one";
}
