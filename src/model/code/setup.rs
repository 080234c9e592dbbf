//! Codes 10xx and 11xx: how the program was called and configured, and its state folder.

use super::{Code, CodeInfo, codes};

codes! {
    CONFIG_KEY_UNKNOWN = 1001, "unknown config key",
        "The config file, or a TOMBOLO_ variable, has a key that this release does not know. Mostly it is misspelt; nothing was started or changed.",
        "correct the key; `tombolo config schema` lists every key there is";
    CONFIG_VALUE_INVALID = 1002, "invalid config value",
        "A value has the wrong form or lies outside its range. Nothing was started or changed.",
        "correct the value; `tombolo config schema` shows the form of each key";
    CONFIG_UNREADABLE = 1003, "config file cannot be read",
        "The file does not exist, may not be read, or is not TOML.",
        "check the path given to `--config`, and the file with `tombolo config validate`";
    FLAG_INVALID = 1004, "invalid argument",
        "A flag or argument has the wrong form or lies outside its range.",
        "read the command's `--help`";
    ADDRESS_IN_USE = 1005, "address already in use",
        "Another program, or another gateway, already listens on an address this gateway was told to use.",
        "stop the other program, or choose another address in the `[listen]` section";
    ADDRESS_NOT_ALLOWED = 1006, "address may not be bound",
        "The system refused the address: it belongs to no interface of this host, or its port needs a privilege.",
        "choose an address of this host and a port of 1024 or more in the `[listen]` section";
    EXPORT_DECLARED_TWICE = 1007, "export declared in two places",
        "The same name is exported by more than one of the config file, `--export` and the state folder, so it would be undecided which one holds.",
        "keep one: delete the `[[export]]` table, or run `tombolo unexport NAME`";
    NO_DAEMON = 1008, "no gateway answers",
        "Commands talk to a running gateway through the socket in its state folder, and nobody answers there.",
        "start one with `tombolo run`, or name its state folder with `--state`";
    SYSTEM_UNSUPPORTED = 1009, "system not supported",
        "Tombolo needs Linux with steered socket groups (SO_REUSEPORT with a BPF program) and all of 127.0.0.0/8.",
        "run it on Linux 5.4 or later";
    RESTART_NEEDED = 1010, "restart needed",
        "A reload changed a setting that is fixed while a gateway runs. The other changes hold, this one waits.",
        "restart the gateway, or set the value back";
    COMMAND_TIMED_OUT = 1011, "no answer in time",
        "The gateway took the request but did not finish in the time the command waits.",
        "look at `tombolo status`, then try again with a longer `--timeout`";
    NO_SUCH_EXPORT = 1012, "no such export",
        "This cluster does not export that name.",
        "list what is exported with `tombolo services`";
    RELOAD_REFUSED = 1013, "reload refused, old settings kept",
        "The config file was changed to something invalid; the gateway goes on with what it had.",
        "check the file with `tombolo config validate`, then send SIGHUP again";
    REQUEST_INVALID = 1014, "request not understood",
        "The admin API got a request it cannot serve; mostly the command and the gateway are of different releases.",
        "compare `tombolo version` with the release that runs";
    PART_FAILED = 1015, "a part of the gateway ended unexpectedly",
        "A task that must live as long as the gateway stopped. The gateway stops too rather than limp, and keeps its state.",
        "start it again; if it repeats, report the log lines before this one";
    SETTING_NOT_SERVED = 1016, "setting not served by this release",
        "The key is part of the config file's format, but this release does not act on it; accepting it in silence would promise what does not happen.",
        "remove the key, or run a release that serves it";
    DEMO_FAILED = 1017, "demo did not finish",
        "One of the demo's gateways or applications could not be started, or did not come as far as the demo needs.",
        "read what the named process printed, then run `tombolo demo` again";

    STATE_UNREADABLE = 1101, "state folder cannot be read",
        "The folder or a file in it may not be read by this user, or is not what it should be.",
        "give the folder to the user that runs the gateway, or choose another with `--state`";
    STATE_CORRUPT = 1102, "state file damaged",
        "A file does not match its checksum, and neither does its previous version. Nothing was replaced: a new identity is never made in silence.",
        "restore the file from a backup, or start afresh with another `--state` and join again";
    STATE_NEWER = 1103, "state folder written by a newer release",
        "The folder has a later format than this release can read. Nothing was changed.",
        "run the newer release again, or use another `--state`";
    STATE_OF_ANOTHER_CLUSTER = 1104, "state folder of another cluster",
        "The cluster id and trust domain are fixed at first start, and the settings name others.",
        "use the id the folder was made for, or another `--state`";
    STATE_LOCKED = 1105, "state folder in use",
        "Another process holds the folder's lock.",
        "stop the other gateway, or give this one its own `--state`";
    STATE_NOT_WRITABLE = 1106, "state folder cannot be written",
        "A write failed: permissions, a read-only file system, or no space. The gateway goes on serving what it has.",
        "make space or give the folder to the user that runs the gateway";
    STATE_RECOVERED = 1107, "state file recovered from its previous version",
        "A file did not match its checksum, so the version before it was used. The last change to it is lost.",
        "check the disk, and compare `tombolo status` with what you expect";
    NO_VIRTUAL_IP_RANGE = 1108, "no free range of virtual IPs",
        "Each gateway on a host claims a block of the virtual IP range, and all blocks are taken.",
        "stop a gateway on this host, or give this one another range with `--virtual-ips`";
    STATE_CHANGED = 1109, "state changed meanwhile",
        "Somebody else changed the same file between reading and writing. Nothing of this change was kept.",
        "run the command again";
    STATE_PATH_TOO_LONG = 1110, "state folder's path is too long",
        "The admin socket lies in the state folder, and a socket's path has at most 107 bytes.",
        "use a shorter path with `--state`";
    STATE_INCOMPLETE = 1111, "state folder incomplete",
        "The folder belongs to a cluster, but part of its identity is missing. A new identity is never made in silence.",
        "restore the missing file from a backup, or start afresh with another `--state` and join again";
}
