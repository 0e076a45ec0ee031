//! How a broker shows the cluster's servers who it is, and what it makes of a refusal.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use async_nats::rustls;
use async_nats::{
    Auth, AuthError, Client, ClientError, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerError,
};
use tokio::sync::watch;

use super::{OrderError, StoreOptions, reach};

/// An nkey's seed: so many characters, and the first of them.
const SEED: (usize, char) = (58, 'S');

/// What the servers refused since they last took this broker's connection.
#[derive(Clone, Default)]
pub(super) struct Refusals(Arc<watch::Sender<Option<String>>>);

impl Refusals {
    pub(super) fn last(&self) -> Option<OrderError> {
        self.0.borrow().clone().map(OrderError::Denied)
    }

    /// What comes of `doing`, unless the servers refuse something meanwhile. Who asks for what it may not is not answered:
    /// it would wait for nothing.
    pub(super) async fn unless<T>(
        &self,
        doing: impl Future<Output = Result<T, OrderError>>,
    ) -> Result<T, OrderError> {
        let mut refused = self.0.subscribe();
        tokio::select! {
            biased;
            done = doing => done,
            Ok(why) = refused.wait_for(Option::is_some) => Err(OrderError::Denied(why.clone().unwrap_or_default())),
        }
    }

    fn hear(&self, event: Event) {
        let why = match event {
            Event::Connected => {
                if self.0.send_replace(None).is_some() {
                    tracing::info!("the cluster lets this broker in again");
                }
                return;
            }
            Event::ServerError(ServerError::AuthorizationViolation) => "authorization violation".to_owned(),
            Event::ServerError(ServerError::Other(why)) | Event::ClientError(ClientError::Other(why)) => why,
            _ => return,
        };
        if denies(&why) && self.0.send_replace(Some(why.clone())).as_ref() != Some(&why) {
            tracing::warn!(
                %why,
                "the cluster refuses this broker: see store_auth, store_cert, and what the servers let it do; tried again"
            );
        }
    }
}

/// Whether a server's words, or the client's, say that something is not allowed.
fn denies(why: &str) -> bool {
    let why = why.to_ascii_lowercase();
    // What the client says when it was not given what it should show.
    let unreadable = ConnectErrorKind::Authentication.to_string();
    // One that was busy is no refusal.
    !why.contains("timeout")
        && ["authorization", "authentication", "permissions violation", &unreadable]
            .iter()
            .any(|word| why.contains(*word))
}

/// Connects to one of the servers.
pub(super) async fn connect(options: &StoreOptions, refusals: &Refusals) -> Result<Client, OrderError> {
    let connect = match &options.auth {
        None => ConnectOptions::new(),
        Some(path) => {
            auth(path)?;
            let path = path.clone();
            // Read for every connection: who changes a password changes this file, and no broker has to be started again.
            ConnectOptions::with_auth_callback(move |_| {
                let auth = auth(&path).map_err(|error| {
                    tracing::warn!(%error, "nothing to show the cluster");
                    AuthError::new(error)
                });
                std::future::ready(auth)
            })
        }
    };
    let heard = refusals.clone();
    let mut connect = reach::impatient(connect)
        .name("sealcast-broker")
        .event_callback(move |event| {
            heard.hear(event);
            std::future::ready(())
        })
        // Also of servers that the first one names, and whatever somebody on the way makes of its words.
        .require_tls(options.is_encrypted());
    if let Some(ca) = &options.ca {
        pem(ca)?;
        connect = connect.add_root_certificates(ca.clone());
    }
    if let Some((certificate, key)) = &options.certificate {
        pem(certificate)?;
        pem(key)?;
        connect = connect.add_client_certificate(certificate.clone(), key.clone());
    }
    connect.connect(options.servers.urls()).await.map_err(|error| failed(&error))
}

/// What a file says: `user:password`, or a token. Nothing that it should not hold is sent to a server.
fn auth(path: &Path) -> Result<Auth, OrderError> {
    let text = read(path)?;
    let text = text.trim();
    let useless = |why| OrderError::Useless { path: path.display().to_string(), why };
    let is_seed = |word: &str| word.len() == SEED.0 && word.starts_with(SEED.1) && is_base32(word);
    // A JWT is two objects and a signature; `{"` is `eyJ` there.
    if text.contains("-----BEGIN") || text.starts_with("eyJ") || text.split_whitespace().any(is_seed) {
        return Err(useless("credentials files, nkeys and JWTs are not known here"));
    }
    if text.is_empty() || text.lines().count() > 1 {
        return Err(useless("it should hold one line: user:password, or a token"));
    }
    let mut auth = Auth::new();
    match text.split_once(':') {
        Some((user, password)) => {
            (auth.username, auth.password) = (Some(user.into()), Some(password.into()));
        }
        None => auth.token = Some(text.into()),
    }
    Ok(auth)
}

fn is_base32(word: &str) -> bool {
    word.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'))
}

/// The client takes a file without any certificate for one with none to add, and does not say which file is missing.
fn pem(path: &Path) -> Result<(), OrderError> {
    let why = "it should hold PEM: -----BEGIN …";
    let useless = || OrderError::Useless { path: path.display().to_string(), why };
    read(path)?.contains("-----BEGIN").then_some(()).ok_or_else(useless)
}

fn read(path: &Path) -> Result<String, OrderError> {
    let file = |error: std::io::Error| OrderError::File {
        path: path.display().to_string(),
        error: error.to_string(),
    };
    std::fs::read_to_string(path).map_err(file)
}

/// Why no server took the connection.
fn failed(error: &ConnectError) -> OrderError {
    if matches!(error.kind(), ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation) {
        return OrderError::Denied(error.to_string());
    }
    let mut source: Option<&(dyn Error + 'static)> = error.source();
    while let Some(it) = source {
        let within = it.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match within.and_then(|within| within.downcast_ref::<rustls::Error>()) {
            // It is the server that does not like what it was shown.
            Some(rustls::Error::AlertReceived(_)) => return OrderError::Denied(it.to_string()),
            Some(_) => return OrderError::Tls(it.to_string()),
            None => {}
        }
        if it.downcast_ref::<ServerError>().is_some() && denies(&it.to_string()) {
            return OrderError::Denied(it.to_string());
        }
        source = it.source();
    }
    OrderError::Away { doing: "cannot be reached", error: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_should_not_be_sent_is_not_taken_for_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            auth(&path)
        };
        let both = read("edge:se:cret\n").unwrap();
        assert_eq!((both.username.as_deref(), both.password.as_deref()), (Some("edge"), Some("se:cret")));
        assert!(both.token.is_none());
        assert_eq!(read("  S3CRET \n").unwrap().token.as_deref(), Some("S3CRET"));
        let seed = format!("SU{}", "A2".repeat(28));
        let creds = format!("-----BEGIN NATS USER JWT-----\neyJ0\n-----BEGIN USER NKEY SEED-----\n{seed}\n");
        for wrong in [seed.as_str(), &creds, "eyJ0eXAi.e30.c2ln", "", "\n", "edge:secret\nedge:other"] {
            let error = read(wrong).map(drop).unwrap_err();
            assert!(matches!(error, OrderError::Useless { .. }), "{error}");
            assert!(!error.to_string().contains(&seed) && error.to_string().contains("auth"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(auth(&path), Err(OrderError::File { .. })));
    }

    #[test]
    fn a_refusal_is_warned_of_once_until_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = std::sync::Mutex::new(std::fs::File::create(&path).unwrap());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(file).finish();
        let revoked = || Event::ServerError(ServerError::Other("User Authentication Revoked".into()));
        let refused = ConnectErrorKind::AuthorizationViolation.to_string();
        let refused = || Event::ClientError(ClientError::Other(refused.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let refusals = Refusals::default();
            // Thrown out, then turned away again and again; and once more.
            let story =
                [revoked(), refused(), refused(), refused(), Event::Connected, Event::Connected, revoked()];
            story.into_iter().for_each(|event| refusals.hear(event));
        });
        let log = std::fs::read_to_string(path).unwrap();
        let count = |what: &str| log.lines().filter(|line| line.contains(what)).count();
        assert_eq!((count(" WARN "), count("lets this broker in again")), (3, 1), "{log}");
        assert!(log.contains("User Authentication Revoked") && log.contains("store_auth"), "{log}");
    }

    #[test]
    fn a_refusal_is_told_from_other_trouble() {
        let refusals = Refusals::default();
        let trouble = ["Stale Connection", "Authentication Timeout", "IO error", "timed out"];
        for other in trouble {
            refusals.hear(Event::ServerError(ServerError::Other(other.into())));
            assert!(refusals.last().is_none(), "{other}");
        }
        let refused = [
            Event::ServerError(ServerError::AuthorizationViolation),
            Event::ServerError(ServerError::Other("User Authentication Revoked".into())),
            Event::ServerError(ServerError::Other("Permissions Violation for Publish to \"a\"".into())),
            Event::ClientError(ClientError::Other(ConnectErrorKind::AuthorizationViolation.to_string())),
            Event::ClientError(ClientError::Other(ConnectErrorKind::Authentication.to_string())),
        ];
        for event in refused {
            refusals.hear(event.clone());
            assert!(matches!(refusals.last(), Some(OrderError::Denied(_))), "{event}");
            refusals.hear(Event::Connected);
            assert!(refusals.last().is_none(), "{event}");
        }
    }
}
