"""Runs on a node and prints what it has: versions, files, network. Standard library only, any Python from 3.8 on.

`ds_bert.cluster.nodes` sends this file's text to the node's Python, so that a node without ds_bert, or with another
one, can be looked at too. The only argument is JSON: ``packages`` (names) and ``files`` (paths).
"""

import fcntl
import glob
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import socket
import struct
import sys

WHOLE = 64 * 2**20  # bytes up to which a file is read whole; of larger ones, as many in evenly spaced pieces
PIECES = 64
_GET_ADDRESS = 0x8915  # SIOCGIFADDR


def look(request: dict) -> dict:
    """Return what this node has of what ``request`` names."""
    interface, address = network()
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in request["packages"]},
        "code": code(),
        "files": {path: fingerprint(path) for path in request["files"]},
        "gpus": len(glob.glob("/proc/driver/nvidia/gpus/*")),
        "interface": interface,
        "address": address,
    }


def version(package: str) -> "str | None":
    """Return the version of an installed package, None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def code() -> "str | None":
    """Return a digest of the Python files of the ds_bert that would be imported here."""
    found = importlib.util.find_spec("ds_bert")
    if found is None or not found.submodule_search_locations:
        return None
    root = next(iter(found.submodule_search_locations))
    digest = hashlib.sha256()
    for path in sorted(glob.glob(os.path.join(root, "**", "*.py"), recursive=True)):
        digest.update((os.path.relpath(path, root) + "\n" + digest_of_file(path)).encode())
    return digest.hexdigest()


def fingerprint(path: str) -> "str | None":
    """Return a digest of a file, or of all files of a folder with their names; None where there is nothing."""
    if not os.path.exists(path):
        return None
    if not os.path.isdir(path):
        return digest_of_file(path)
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            inside = os.path.join(folder, name)
            digest.update((os.path.relpath(inside, path) + "\n" + digest_of_file(inside)).encode())
    return digest.hexdigest()


def digest_of_file(path: str) -> str:
    """Return a digest of the size and of the content; of a large file, of evenly spaced pieces."""
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    piece = max(1, WHOLE // PIECES)
    step = piece if size <= WHOLE else (size - piece) // (PIECES - 1)
    with open(path, "rb") as file:
        for begin in range(0, size, step):
            file.seek(begin)
            digest.update(file.read(piece))
    return digest.hexdigest()


def network() -> "tuple[str, str]":
    """Return the interface, and its address, by which this node was reached; of the host's name without ssh."""
    reached = os.environ.get("SSH_CONNECTION", "").split()
    try:
        address = reached[2] if len(reached) == 4 else socket.gethostbyname(socket.gethostname())
    except OSError:
        return "", ""
    for _, name in socket.if_nameindex():
        if address_of(name) == address:
            return name, address
    return "", address


def address_of(interface: str) -> "str | None":
    """Return an interface's IPv4 address, None where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), _GET_ADDRESS, struct.pack("256s", interface[:15].encode()))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])


if __name__ == "__main__":
    print("\n" + json.dumps(look(json.loads(sys.argv[1]))))
