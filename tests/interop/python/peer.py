"""Other implementations of the format, for the interoperability tests: the package `asherah`, which holds the one in Rust
(0.5.56) or the one in Go (0.3.9).

    peer.py encrypt --db FILE --service S --product P --key-hex HEX --partition ID < payload > record.json
    peer.py decrypt --db FILE --service S --product P --key-hex HEX --partition ID < record.json > payload
    peer.py batch   --db FILE --service S --product P --key-hex HEX

`--db` is an SQLite file, which the one in Rust alone takes. `--config JSON` in its place names another store, in the words
of the package: {"Metastore": "rdbms", "ConnectionString": TEXT}.

`batch` answers one JSON line per JSON line, until its input ends:

    {"op": "encrypt", "partition": ID, "payload_b64": TEXT}  ->  {"record": TEXT}
    {"op": "decrypt", "partition": ID, "record": TEXT}       ->  {"payload_b64": TEXT}

A job that is refused answers {"error": TEXT}; a single command exits with 1, its error on stderr, stdout empty.
"""

import argparse
import base64
import contextlib
import json
import sys

import asherah

# The package in Rust raises subclasses of Exception and has no error type of its own.
Refused = Exception

# The one static key that the package in Go has.
KEY_OF_GO = b"thisIsAStaticMasterKeyForTesting"


class InRust:
    def __init__(self, options, config):
        config["StaticMasterKeyHex"] = options.key_hex
        # A refused record must not leave new rows behind.
        config["SelfHealRecoveredKeys"] = False
        self.factory = asherah.SessionFactory(config)

    def encrypt(self, partition, payload):
        with self.factory.get_session(partition) as session:
            return session.encrypt_bytes(payload)

    def decrypt(self, partition, record):
        with self.factory.get_session(partition) as session:
            return session.decrypt_bytes(record)

    def close(self):
        self.factory.close()


class InGo:
    def __init__(self, options, config):
        if bytes.fromhex(options.key_hex) != KEY_OF_GO:
            raise ValueError("the package in Go has one static key, and this is another")
        self.service_name = options.service
        self.product_id = options.product
        self.config = config
        self.asherah = asherah.Asherah()
        self.asherah.setup(self)

    # The package's own type of options lacks some that the library has: it takes whatever has these three.
    def to_json(self):
        return self.config

    def encrypt(self, partition, payload):
        return self.asherah.encrypt(partition, payload)

    def decrypt(self, partition, record):
        return bytes(self.asherah.decrypt(partition, record))

    def close(self):
        self.asherah.shutdown()


def open_peer(options):
    config = {"ServiceName": options.service, "ProductID": options.product, "KMS": "static"}
    if options.config is None:
        config.update({"Metastore": "sqlite", "ConnectionString": options.db})
    else:
        config.update(options.config)
    kind = InRust if hasattr(asherah, "SessionFactory") else InGo
    return contextlib.closing(kind(options, config))


def answer(peer, job):
    if job["op"] == "encrypt":
        payload = base64.b64decode(job["payload_b64"], validate=True)
        return {"record": peer.encrypt(job["partition"], payload)}
    if job["op"] == "decrypt":
        payload = peer.decrypt(job["partition"], job["record"])
        return {"payload_b64": base64.b64encode(payload).decode("ascii")}
    raise ValueError(f"unknown op {job['op']!r}")


def batch(peer):
    for line in sys.stdin.buffer:
        try:
            reply = answer(peer, json.loads(line))
        except Refused as error:
            reply = {"error": str(error) or repr(error)}
        sys.stdout.buffer.write(json.dumps(reply).encode("ascii") + b"\n")
        sys.stdout.buffer.flush()


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["encrypt", "decrypt", "batch"])
    store = parser.add_mutually_exclusive_group(required=True)
    store.add_argument("--db", help="SQLite file; created when absent")
    store.add_argument("--config", type=json.loads, help="another store: options of the package, as JSON")
    parser.add_argument("--service", required=True)
    parser.add_argument("--product", required=True)
    parser.add_argument("--key-hex", required=True, help="static master key, 64 hexadecimal digits")
    parser.add_argument("--partition", help="partition id; for encrypt and decrypt")
    options = parser.parse_args()
    if (options.partition is None) != (options.command == "batch"):
        parser.error("--partition goes with encrypt and decrypt")
    return options


def main():
    options = parse_options()
    with open_peer(options) as peer:
        if options.command == "batch":
            batch(peer)
        elif options.command == "encrypt":
            record = peer.encrypt(options.partition, sys.stdin.buffer.read())
            sys.stdout.buffer.write(record.encode("utf-8"))
        else:
            payload = peer.decrypt(options.partition, sys.stdin.buffer.read().decode("utf-8"))
            sys.stdout.buffer.write(payload)


if __name__ == "__main__":
    try:
        main()
    except Refused as error:
        sys.exit(f"peer: {error}")
