//! The listener and its four answers.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use sealcast_proto::PublicKey;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::report;
use super::socket::Bounded;
use crate::shared::Shared;

/// A running operations listener; it ends with this.
pub(crate) struct Ops {
    local: SocketAddr,
    view: Arc<View>,
    serving: JoinHandle<()>,
}

/// What it can show: nothing until the broker has started, nor once it has stopped. Connections outlive the listener:
/// they must not hold the broker.
struct View {
    broker: RwLock<Option<(Arc<Shared>, PublicKey)>>,
    /// On loopback only: see [`is_local`].
    local_names_only: bool,
}

impl Ops {
    /// Listens on `addr`, TCP; not ready until [`Ops::show`].
    pub(crate) async fn bind(addr: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let local = listener.local_addr()?;
        let view = Arc::new(View { broker: RwLock::new(None), local_names_only: local.ip().is_loopback() });
        let app = router(view.clone());
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(Bounded::new(listener), app).await {
                tracing::error!(%error, "the operations listener ended");
            }
        });
        Ok(Self { local, view, serving })
    }

    /// From now on it shows this broker.
    pub(crate) fn show(&self, shared: Arc<Shared>, key: PublicKey) {
        *self.view.broker.write().unwrap_or_else(PoisonError::into_inner) = Some((shared, key));
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl View {
    fn broker(&self) -> Option<(Arc<Shared>, PublicKey)> {
        self.broker.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Ops {
    fn drop(&mut self) {
        *self.view.broker.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.serving.abort();
    }
}

fn router(view: Arc<View>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/topics", get(topics))
        .layer(from_fn_with_state(view.clone(), local_names))
        .with_state(view)
}

/// A web page that an operator has open may point a name of its own at this address and read what is answered; it cannot
/// choose the `Host` that the browser then sends.
async fn local_names(State(view): State<Arc<View>>, request: Request, next: Next) -> Response {
    if view.local_names_only && !is_local(request.headers()) {
        return (StatusCode::FORBIDDEN, "ask for localhost or an address\n").into_response();
    }
    let mut response = next.run(request).await;
    // Places are few.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let is_address = host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    is_address || name == "localhost"
}

async fn readyz(State(view): State<Arc<View>>) -> Response {
    match view.broker().map(|(shared, _)| shared.why_not_ready()) {
        Some(None) => "ready\n".into_response(),
        Some(Some(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
        None => starting(),
    }
}

async fn metrics(State(view): State<Arc<View>>) -> Response {
    let Some((shared, _)) = view.broker() else { return starting() };
    let text = shared.metrics.render(&shared);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn topics(State(view): State<Arc<View>>) -> Response {
    let Some((shared, key)) = view.broker() else { return starting() };
    Json(report::broker(&shared, &key).await).into_response()
}

fn starting() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_web_page_could_choose_are_refused() {
        let from = |host: &'static str| {
            let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            is_local(&headers)
        };
        for local in ["localhost", "localhost:7444", "127.0.0.1:7444", "127.0.0.1", "[::1]:7444"] {
            assert!(from(local), "{local}");
        }
        for other in ["evil.example:7444", "127.0.0.1.evil.example", "localhost.evil.example:1", ""] {
            assert!(!from(other), "{other}");
        }
        assert!(is_local(&HeaderMap::new()), "HTTP/1.0: no browser");
    }
}
