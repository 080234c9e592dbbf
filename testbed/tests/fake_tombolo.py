#!/usr/bin/env python3
"""A stand-in for the tombolo binary in tests of the testbed: it serves the admin paths the testbed reads, and
forwards TCP from its virtual IP to the first gateway of a peer that answers a UDP ping. It is no gateway."""
import json, os, re, select, socket, socketserver, sys, threading, time, tomllib

args = sys.argv[1:]


def option(name):
    return args[args.index(name) + 1]


if args[:1] == ["--version"]:
    print("tombolo fake")
    sys.exit(0)


def post(path, body=b""):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(option("--socket"))
        s.sendall(b"POST %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (path, len(body), body))
        raw = b""
        while chunk := s.recv(65536):
            raw += chunk
        return raw.split(b"\r\n\r\n", 1)[1]


if args[:2] == ["token", "create"]:
    print("Give this to the other cluster:\ntmb1_" + post(b"/v1/tokens").decode().encode().hex())
    sys.exit(0)
if args[:1] == ["join"]:
    token = re.search(r"tmb1_([0-9a-f]+)", sys.stdin.read()).group(1)
    print(post(b"/v1/join", bytes.fromhex(token)).decode())
    sys.exit(0)

config = tomllib.load(open(option("--config"), "rb"))
state = option("--state")
cluster = config["cluster"]
quic = config["listen"]["quic"]
advertised = config["advertise"]["addresses"][0]
vip = config["names"]["virtual_ips"].split("/")[0].rsplit(".", 1)[0] + ".2"
ports = {p["name"]: p for e in config.get("export", []) for p in e.get("port", [])}
NUMBERS = {"http": 8080, "echo": 8081, "greet": 8082}
home = os.path.join(state, "gateways", advertised.replace(":", "-"))
os.makedirs(home, exist_ok=True)


def pair(address):
    host, port = address.rsplit(":", 1)
    return host, int(port)


# Peers: cluster -> {address -> time of the last echo}; what a gateway knows travels with every ping.
peers, exporters, lock = {}, {}, threading.Lock()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(pair(quic))
# As the real one, it dials from an address that tells nothing.
dial = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
dial.bind(("0.0.0.0", 0))
shared = os.path.join(state, "known")


def me():
    return {"cluster": cluster, "address": advertised, "exports": bool(ports)}


def learn(entry):
    if entry["cluster"] != cluster:
        with lock:
            peers.setdefault(entry["cluster"], {}).setdefault(entry["address"], 0.0)
            exporters[entry["cluster"]] = exporters.get(entry["cluster"]) or entry["exports"]
    with open(shared, "a") as f:
        f.write(json.dumps(entry) + "\n")


def known():
    try:
        lines = {line for line in open(shared) if line.endswith("\n")}
    except FileNotFoundError:
        lines = set()
    return [json.loads(line) for line in lines]


def ping():
    while True:
        for entry in known():
            if entry["cluster"] != cluster:
                with lock:
                    peers.setdefault(entry["cluster"], {}).setdefault(entry["address"], 0.0)
                    exporters[entry["cluster"]] = exporters.get(entry["cluster"]) or entry["exports"]
        message = json.dumps({"ping": me(), "known": known()}).encode()
        with lock:
            targets = [a for addresses in peers.values() for a in addresses]
        for address in targets:
            try:
                dial.sendto(message, pair(address))
            except OSError:
                pass
        time.sleep(0.05)


def hear(own):
    while True:
        try:
            data, source = own.recvfrom(65536)
        except OSError:
            continue
        message = json.loads(data)
        if "ping" in message:
            fresh = [e for e in [message["ping"], *message["known"]] if e not in known()]
            for entry in fresh:
                learn(entry)
            udp.sendto(json.dumps({"pong": me()}).encode(), source)
        else:
            entry = message["pong"]
            with lock:
                if entry["cluster"] in peers:
                    peers[entry["cluster"]][entry["address"]] = time.monotonic()


def up(address, last):
    return time.monotonic() - last < 0.3


def peer_status():
    with lock:
        out = []
        for name, addresses in sorted(peers.items()):
            live = sorted(a for a, last in addresses.items() if up(a, last))
            link = {"state": "up" if live else "down", "address": live[0] if live else "none"}
            links = [{"state": "up", "gateway": address, "address": address} for address in live]
            out.append({"cluster": name, "state": "active", "link": link, "links": links})
        return out


class Api(socketserver.StreamRequestHandler):
    def handle(self):
        head = self.rfile.readline().decode().split(" ")
        length = 0
        while (line := self.rfile.readline().strip()):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        body = self.rfile.read(length)
        if head[1] == "/v1/tokens":
            answer = me()
        elif head[1] == "/v1/join":
            learn(json.loads(body))
            answer = {"step": "done"}
        elif head[1] == "/v1/services":
            answer = {"services": [{"dns_name": "web.shop.svc.clusterset.local", "virtual_ip": vip,
                      "ports": [{"name": n, "port": p} for n, p in NUMBERS.items()]}]}
        else:
            answer = {"ready": True, "addresses": {"quic": quic}, "peers": peer_status()}
        data = json.dumps(answer).encode()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)


def copy(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    for s in (a, b):
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def candidates(name):
    own = [pair(to) for to in ports[name]["to"]] if ports else []
    with lock:
        live = sorted(a for n, addresses in peers.items() if exporters.get(n) for a, last in addresses.items() if up(a, last))
    # A peer's gateway forwards beside its QUIC port, a thousand above the service port.
    return own + [(private(a), NUMBERS[name] + 1000) for a in live]


def private(address):
    host = address.rsplit(":", 1)[0].split(".")
    return ".".join([host[0], str(int(host[1]) - 1), *host[2:]]) if host[0] == "127" else ".".join(host)


class Forward(socketserver.BaseRequestHandler):
    def handle(self):
        for target in candidates(self.server.port_name):
            try:
                server = socket.create_connection(target, timeout=0.2)
            except OSError:
                continue
            server.settimeout(None)
            threading.Thread(target=copy, args=(self.request, server), daemon=True).start()
            copy(server, self.request)
            return


class Threads(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 1024


class Admin(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


learn(me())
for name, number in NUMBERS.items():
    for address in [(vip, number)] + ([(pair(quic)[0], number + 1000)] if ports else []):
        server = Threads(address, Forward)
        server.port_name = name
        threading.Thread(target=server.serve_forever, daemon=True).start()
threading.Thread(target=ping, daemon=True).start()
for own in (udp, dial):
    threading.Thread(target=hear, args=(own,), daemon=True).start()
path = os.path.join(home, "admin.sock")
if os.path.exists(path):
    os.remove(path)
Admin(path, Api).serve_forever()
