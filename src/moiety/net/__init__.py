"""Bytes and peers: identity, mutual TLS, frames. This room knows no share.

identity    who a party is: key, certificate, pin
trust       TLS 1.3 contexts that accept pinned certificates only, and the errors for refusals
frames      the 40-byte header of a frame
stream      exact reads and writes over TLS, a deadline on every wait
reader      frames in
writer      frames out
link        the seam: what the engine needs of a channel
watch       several links served by one thread, which hears when any of them ends
channel     one authenticated connection to one peer
handshake   the hello that both sides exchange first
dial        open a connection
listen      wait for connections
shape       delay and bandwidth of a slower link, for tests, benchmarks and plans
faults      the fault language, and a link that misbehaves on purpose, for tests and chaos
"""

from moiety.net.channel import Channel
from moiety.net.dial import dial
from moiety.net.faults import Fault, FaultKind, FaultyChannel, Injector, fault
from moiety.net.frames import Kind
from moiety.net.identity import Identity, Peer, create_identity, fingerprint, load_identity
from moiety.net.link import Counters, Hello, Link, Nonces
from moiety.net.listen import Listener
from moiety.net.reader import AbortReceived
from moiety.net.shape import NETS, Net, Shaper, net
from moiety.net.watch import Watch

__all__ = [
    "NETS",
    "AbortReceived",
    "Channel",
    "Counters",
    "Fault",
    "FaultKind",
    "FaultyChannel",
    "Hello",
    "Identity",
    "Injector",
    "Kind",
    "Link",
    "Listener",
    "Net",
    "Nonces",
    "Peer",
    "Shaper",
    "Watch",
    "create_identity",
    "dial",
    "fault",
    "fingerprint",
    "load_identity",
    "net",
]
