"""Hashes, derivations, signatures, agreement, AEAD, padding and protobuf of docs/protocol.md sections 2, 6 and 7.

X25519, Ed25519 and AES-256-GCM-SIV come from the Python package `cryptography` (OpenSSL); everything else is written
out here, from the document and the RFCs and from nothing of the Rust code. Not for use: nothing is constant-time.
"""

import hashlib
import hmac

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV


class Refused(Exception):
    """What was read is not accepted; `name` is the failure's name in the vectors."""

    def __init__(self, name, detail=""):
        super().__init__(f"{name}: {detail}")
        self.name = name


# ---- section 2: H, Extract, Derive, Sign ---------------------------------------------------------


def sha(data):
    return hashlib.sha256(data).digest()


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def expand(prk, info, length):
    """HKDF-Expand, RFC 5869."""
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = mac(prk, block + info + bytes([counter]))
        out, counter = out + block, counter + 1
    return out[:length]


def u(value, bits):
    return value.to_bytes(bits // 8, "big")


def lp(x):
    return u(len(x), 32) + x


def H(label, *parts):
    return sha(b"sealcast/1 hash" + lp(label) + b"".join(lp(part) for part in parts))


def Extract(label, ikm):
    return mac(b"sealcast/1 " + label, ikm)


def Derive(prk, label, ctx):
    return expand(prk, b"sealcast/1 derive" + lp(label) + lp(ctx), 32)


def signing_input(label, body):
    return b"sealcast/1 sign" + lp(label) + lp(body)


def sign(seed, label, body):
    return Ed25519PrivateKey.from_private_bytes(seed).sign(signing_input(label, body))


def verify(key, label, body, signature):
    """Strict. OpenSSL refuses S >= L and compares R's bytes; R of small order is refused here, a key in `public_key`."""
    point = decompress(signature[:32])
    if point is None or small_order(point):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signing_input(label, body))
    except InvalidSignature:
        return False
    return True


# ---- Edwards points: only to judge keys, and to make bad ones -------------------------------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
NEUTRAL = (0, 1)


def decompress(data):
    """(x, y), or None where there is no such point. Takes encodings that are not canonical, as most libraries do."""
    value = int.from_bytes(data, "little")
    y, odd = value % 2**255 % P, value >> 255
    u2, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u2 * pow(v, 3, P) * pow(u2 * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P == -u2 % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if v * x * x % P != u2:
        return None
    return ((-x) % P if x % 2 != odd else x, y)


def compress(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def add(a, b):
    product = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + product, -1, P) % P
    return (x, (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P) % P)


def multiply(scalar, point):
    out = NEUTRAL
    for bit in bin(scalar)[2:]:
        out = add(out, out)
        if bit == "1":
            out = add(out, point)
    return out


def small_order(point):
    return multiply(8, point) == NEUTRAL


def public_key(data):
    """An identity's or epoch's key: a canonical point of large order."""
    point = decompress(data) if len(data) == 32 else None
    if point is None:
        raise Refused("Point")
    if small_order(point):
        raise Refused("Weak")
    if compress(point) != data:
        raise Refused("Point")
    return data


def ed25519_public(seed):
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


# ---- X25519, HPKE, AEAD, Padme ------------------------------------------------------------------------


def x25519(secret, public):
    """None where the result is all zeros (a key of small order)."""
    try:
        return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return None


def x25519_public(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def static_wrap_secret(seed):
    return hashlib.sha512(seed).digest()[:32]


def static_wrap_key(identity):
    """Edwards to Montgomery, RFC 7748 section 4.1."""
    y = int.from_bytes(identity, "little") & (2**255 - 1)
    return ((1 + y) * pow(1 - y, -1, P) % P).to_bytes(32, "little")


def hpke_export(dh, enc, pk_r, info, context, length):
    """RFC 9180, base mode, export-only, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256."""
    kem, suite = b"KEM" + u(0x20, 16), b"HPKE" + u(0x20, 16) + u(1, 16) + u(0xFFFF, 16)

    def lextract(sid, salt, label, ikm):
        return mac(salt, b"HPKE-v1" + sid + label + ikm)

    def lexpand(sid, prk, label, data, n):
        return expand(prk, u(n, 16) + b"HPKE-v1" + sid + label + data, n)

    shared = lexpand(kem, lextract(kem, b"", b"eae_prk", dh), b"shared_secret", enc + pk_r, 32)
    schedule = b"\0" + lextract(suite, b"", b"psk_id_hash", b"") + lextract(suite, b"", b"info_hash", info)
    exporter = lexpand(suite, lextract(suite, shared, b"secret", b""), b"exp", schedule, 32)
    return lexpand(suite, exporter, b"sec", context, length)


def seal(key, plaintext, aad, nonce=bytes(12)):
    return AESGCMSIV(key).encrypt(nonce, plaintext, aad)


def unseal(key, ciphertext, aad):
    """None where it does not open."""
    try:
        return AESGCMSIV(key).decrypt(bytes(12), ciphertext, aad)
    except (InvalidTag, ValueError):
        return None


def padme(length):
    if length < 2:
        return length
    e = length.bit_length() - 1
    mask = (1 << (e - e.bit_length())) - 1
    return (length + mask) & ~mask


# ---- protobuf --------------------------------------------------------------------------------------


class Sub(bytes):
    """An inner message: written even when it is empty."""


def varint(value):
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def proto(*fields):
    """`(tag, value)` pairs as proto3 writes them: what is zero or empty is left out."""
    out = b""
    for tag, value in fields:
        value = value.encode() if isinstance(value, str) else value
        if value is None or (not value and not isinstance(value, Sub)):
            continue
        if isinstance(value, int):
            out += varint(tag << 3) + varint(value)
        else:
            out += varint(tag << 3 | 2) + varint(len(value)) + value
    return out


def read_varint(data, at):
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 2**64:
                break
            return value, at
    raise Refused("Malformed", "not protobuf")


def read_proto(data):
    """`(tag, value)` pairs; a value is an int (varint) or bytes (anything else)."""
    at, out = 0, []
    while at < len(data):
        key, at = read_varint(data, at)
        tag, wire = key >> 3, key & 7
        if wire == 0:
            value, at = read_varint(data, at)
        elif wire in (1, 2, 5):
            length = {1: 8, 5: 4}.get(wire)
            if length is None:
                length, at = read_varint(data, at)
            value, at = data[at : at + length], at + length
        if wire not in (0, 1, 2, 5) or tag == 0 or at > len(data):
            raise Refused("Malformed", "not protobuf")
        out.append((tag, value))
    return out
