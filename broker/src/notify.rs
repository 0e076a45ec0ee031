//! Tells systemd how the broker is (`Type=notify`, sd_notify(3)): a datagram to the socket it names.

use std::ffi::OsStr;
use std::io;
use std::os::unix::net::UnixDatagram;

/// Where systemd listens.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Says `state`, such as `READY=1`, to whoever started this process and asked to be told; to nobody otherwise.
pub(crate) fn tell(state: &str) {
    if let Some(socket) = std::env::var_os(VARIABLE).filter(|socket| !socket.is_empty())
        && let Err(error) = send(&socket, state)
    {
        tracing::warn!(%error, state, "cannot tell the service manager");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    #[cfg(target_os = "linux")]
    if let Some(name) = std::os::unix::ffi::OsStrExt::as_bytes(socket).strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt as _;
        let addr = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        return sender.send_to_addr(state.as_bytes(), &addr).map(drop);
    }
    sender.send_to(state.as_bytes(), socket).map(drop)
}
