"""Another implementation of the format, for the interoperability tests: the package `asherah` 0.5.56.

    peer.py encrypt --db FILE --service S --product P --key-hex HEX --partition ID < payload > record.json
    peer.py decrypt --db FILE --service S --product P --key-hex HEX --partition ID < record.json > payload
    peer.py batch   --db FILE --service S --product P --key-hex HEX

`batch` answers one JSON line per JSON line, until its input ends:

    {"op": "encrypt", "partition": ID, "payload_b64": TEXT}  ->  {"record": TEXT}
    {"op": "decrypt", "partition": ID, "record": TEXT}       ->  {"payload_b64": TEXT}

A job that is refused answers {"error": TEXT}; a single command exits with 1, its error on stderr, stdout empty.
"""

import argparse
import base64
import json
import sys

import asherah

# asherah.SessionFactory raises subclasses of Exception and has no error type of its own.
Refused = Exception


def open_factory(options):
    return asherah.SessionFactory(
        {
            "ServiceName": options.service,
            "ProductID": options.product,
            "Metastore": "sqlite",
            "ConnectionString": options.db,
            "KMS": "static",
            "StaticMasterKeyHex": options.key_hex,
            # A refused record must not leave new rows behind.
            "SelfHealRecoveredKeys": False,
        }
    )


def encrypt(factory, partition, payload):
    with factory.get_session(partition) as session:
        return session.encrypt_bytes(payload)


def decrypt(factory, partition, record):
    with factory.get_session(partition) as session:
        return session.decrypt_bytes(record)


def answer(factory, job):
    if job["op"] == "encrypt":
        payload = base64.b64decode(job["payload_b64"], validate=True)
        return {"record": encrypt(factory, job["partition"], payload)}
    if job["op"] == "decrypt":
        payload = decrypt(factory, job["partition"], job["record"])
        return {"payload_b64": base64.b64encode(payload).decode("ascii")}
    raise ValueError(f"unknown op {job['op']!r}")


def batch(factory):
    for line in sys.stdin.buffer:
        try:
            reply = answer(factory, json.loads(line))
        except Refused as error:
            reply = {"error": str(error) or repr(error)}
        sys.stdout.buffer.write(json.dumps(reply).encode("ascii") + b"\n")
        sys.stdout.buffer.flush()


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["encrypt", "decrypt", "batch"])
    parser.add_argument("--db", required=True, help="SQLite file; created when absent")
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
    with open_factory(options) as factory:
        if options.command == "batch":
            batch(factory)
        elif options.command == "encrypt":
            record = encrypt(factory, options.partition, sys.stdin.buffer.read())
            sys.stdout.buffer.write(record.encode("utf-8"))
        else:
            payload = decrypt(factory, options.partition, sys.stdin.buffer.read().decode("utf-8"))
            sys.stdout.buffer.write(payload)


if __name__ == "__main__":
    try:
        main()
    except Refused as error:
        sys.exit(f"peer: {error}")
