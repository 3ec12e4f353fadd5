//! Joins the parts: from ports to answers.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use cri_proto::Deadline;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use jiff::Timestamp;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::answers::{self, Answer, text};
use super::authentication::{Authentication, Tokens};
use super::authorization::{Authorization, Denied};
use super::connections::{Answers, Connections, Peer, Port, full};
use super::requests::Requests;
use super::route::{Asked, Metrics, Miss, Route, StreamRoute};
use super::settings::Settings;
use super::stats::{self, Disks, Rates};
use super::tls::{Serving, TlsError, client_authority, serving};
use super::{RUNTIME, container_logs, health, node_logs, own_metrics, pages, pods};
use crate::api::Client;
use crate::errors::chain;
use crate::listen::listen;
use crate::metrics::{self, Figures};
use crate::names::PodUid;
use crate::node::Handle;
use crate::probes::Probes;

/// The loop that starts and stops pods answers in microseconds; one that does not within this is stuck.
const LOOP: Duration = Duration::from_secs(10);

/// `/debug/pprof/` hands out what only Go's runtime can collect.
const NO_PROFILES: &str = "there are no profiles: this agent is no Go program; use perf on its process\n";

/// Serves exec, attach, portForward and run. A request that comes here has been let in; its `Authorization` header is gone.
/// The pod and the container are only names: whether they are there is judged here (see [`super::find`]).
#[async_trait]
pub trait Streams: Send + Sync {
    /// Answers, and carries on with the upgraded connection after that.
    async fn serve(&self, wanted: StreamRoute, node: &Handle, request: Request<Incoming>) -> Answer;
}

/// The node, as soon as it runs. Clones share it.
#[derive(Clone, Default)]
pub struct NodeSlot(Arc<OnceLock<Handle>>);

impl NodeSlot {
    /// From now on it is asked.
    pub fn fill(&self, node: Handle) {
        // A second node would be another agent.
        let _ = self.0.set(node);
    }
}

/// A port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("listening on {at} for {what}; is a kubelet running on this machine?")]
pub struct ListenError {
    at: SocketAddr,
    what: &'static str,
    source: io::Error,
}

/// Ports that nobody is answered on yet.
pub struct Bound {
    settings: Settings,
    secure: Option<TcpListener>,
    read_only: Option<TcpListener>,
    healthz: Option<TcpListener>,
}

/// Opens the ports; none where the server is off.
///
/// # Errors
/// Which one cannot be had.
pub fn bind(settings: Settings) -> Result<Bound, ListenError> {
    let server = &settings.server;
    let open = |at: Option<SocketAddr>, what| {
        let at = at.filter(|_| server.enabled);
        at.map(|at| listen(at).map_err(|source| ListenError { at, what, source })).transpose()
    };
    let secure = open(Some(server.listen), "the kubelet's API")?;
    let read_only = open(server.read_only, "the kubelet's read-only API")?;
    let healthz = open(server.healthz, "the kubelet's health")?;
    Ok(Bound { settings, secure, read_only, healthz })
}

impl Bound {
    /// Answers from now on, until `stop`.
    ///
    /// # Errors
    /// A certificate or an authority cannot be used.
    pub fn serve(
        self,
        client: &Client,
        node_name: &str,
        node: NodeSlot,
        streams: Option<Arc<dyn Streams>>,
        stop: &CancellationToken,
    ) -> Result<Vec<JoinHandle<()>>, TlsError> {
        let settings = self.settings;
        if !settings.server.enabled {
            return Ok(Vec::new());
        }
        let tls = Arc::new(serving(&settings, node_name)?);
        let gate = gate(&settings, client, node_name)?;
        let routes = Arc::new(Routes {
            settings,
            node,
            streams,
            calls: client.figures().clone(),
            requests: Requests::default(),
            rates: Rates::default(),
            disks: Disks::default(),
            scrapes: Semaphore::new(2),
            started: Timestamp::now(),
        });
        let secure = Secure { gate, routes: Arc::clone(&routes) };
        let mut tasks: Vec<_> =
            self.secure.map(|listener| spawn(listener, Some(tls), secure, stop)).into_iter().collect();
        let open = |listener, serves| spawn(listener, None, Open { routes: Arc::clone(&routes), serves }, stop);
        tasks.extend(self.read_only.map(|listener| open(listener, is_harmless)));
        tasks.extend(self.healthz.map(|listener| open(listener, is_health)));
        Ok(tasks)
    }
}

fn spawn(
    listener: TcpListener,
    tls: Option<Arc<Serving>>,
    answers: impl Answers,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    // A flood of one port is none of the others'.
    let connections = Arc::new(Connections::default());
    tokio::spawn(Port { listener, tls, connections, answers: Arc::new(answers) }.run(stop.clone()))
}

fn gate(settings: &Settings, client: &Client, node: &str) -> Result<Gate, TlsError> {
    let believed = &settings.server.authentication;
    let authentication = Authentication {
        certificates: believed.client_ca.as_deref().map(client_authority).transpose()?,
        tokens: believed.tokens.map(|counts_for| Tokens::new(client.clone(), counts_for)),
        anonymous: believed.anonymous,
    };
    let authorization = Authorization::new(settings.server.authorization, client.clone(), node);
    Ok(Gate { authentication, authorization })
}

/// Who may pass.
struct Gate {
    authentication: Authentication,
    authorization: Authorization,
}

impl Gate {
    async fn pass(&self, asked: &Asked, peer: &Peer, request: &mut Request<Incoming>) -> Result<(), Answer> {
        let user = self.authentication.user(&peer.certificates, request.headers_mut()).await;
        let user = user.ok_or_else(|| text(StatusCode::UNAUTHORIZED, "Unauthorized"))?;
        self.authorization.check(&user, asked).await.map_err(|denied| match denied {
            Denied::Forbidden(words) => text(StatusCode::FORBIDDEN, words),
            Denied::Unknown(words) => text(StatusCode::INTERNAL_SERVER_ERROR, words),
        })?;
        if peer.seat.let_in() { Ok(()) } else { Err(full()) }
    }
}

/// :10250.
struct Secure {
    gate: Gate,
    routes: Arc<Routes>,
}

impl Answers for Secure {
    async fn answer(&self, peer: &Peer, mut request: Request<Incoming>) -> Answer {
        let asked = Asked::of(request.method(), request.uri().path());
        let _counted = self.routes.requests.begin(&asked, request.method(), "readwrite");
        if let Err(refused) = self.gate.pass(&asked, peer, &mut request).await {
            return refused;
        }
        if asked.is_debugging && !self.routes.settings.server.debugging_handlers {
            return text(StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.\n");
        }
        match asked.route {
            Ok(route) => self.routes.answer(route, request).await,
            Err(miss) => answers::miss(miss),
        }
    }
}

/// :10255 and :10248.
struct Open {
    routes: Arc<Routes>,
    serves: fn(&Route) -> bool,
}

impl Answers for Open {
    async fn answer(&self, _: &Peer, request: Request<Incoming>) -> Answer {
        let asked = Asked::of(request.method(), request.uri().path());
        let _counted = self.routes.requests.begin(&asked, request.method(), "readonly");
        match asked.route {
            Ok(route) if (self.serves)(&route) => self.routes.answer(route, request).await,
            Ok(_) => answers::miss(Miss::NotFound),
            Err(miss) => answers::miss(miss),
        }
    }
}

fn exposed(body: String) -> Answer {
    answers::whole(StatusCode::OK, metrics::CONTENT_TYPE, body)
}

/// What can be had without a name: it changes nothing and shows no secret.
fn is_harmless(route: &Route) -> bool {
    matches!(route, Route::Healthz(_) | Route::Statusz | Route::Pods | Route::Summary | Route::Metrics(_))
}

fn is_health(route: &Route) -> bool {
    matches!(route, Route::Healthz(_))
}

/// The answers.
struct Routes {
    settings: Settings,
    node: NodeSlot,
    streams: Option<Arc<dyn Streams>>,
    /// Calls to the API server.
    calls: Figures,
    requests: Requests,
    started: Timestamp,
    rates: Rates,
    disks: Disks,
    /// Two scrapes at a time: a third waits, and a crowd of them cannot keep the machine busy.
    scrapes: Semaphore,
}

impl Routes {
    async fn answer(&self, route: Route, request: Request<Incoming>) -> Answer {
        if let Route::Healthz(check) = &route {
            let is_verbose = request
                .uri()
                .query()
                .is_some_and(|query| query.split('&').any(|one| one == "verbose" || one.starts_with("verbose=")));
            return health::answer(check.as_deref(), is_verbose, self.goes().await);
        }
        match route {
            Route::Statusz => return pages::statusz(self.started, Timestamp::now()),
            Route::Flagz => return pages::flagz(&self.settings.configz),
            Route::Profile => return text(StatusCode::NOT_FOUND, NO_PROFILES),
            Route::Verbosity if !self.settings.server.debug_flags => {
                return text(StatusCode::METHOD_NOT_ALLOWED, "flags endpoint is disabled.\n");
            }
            Route::Verbosity => return pages::verbosity(request.into_body()).await,
            _ => {}
        }
        let Some(node) = self.node.0.get() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "the node is starting\n");
        };
        match route {
            Route::Healthz(_) | Route::Statusz | Route::Flagz | Route::Profile | Route::Verbosity => {
                answers::miss(Miss::NotFound)
            }
            Route::Pods => answers::json(&pods::wanted(&node.views.borrow().clone())),
            Route::RunningPods => match pods::running(node.runtime.as_ref(), Deadline::within(RUNTIME)).await {
                Ok(list) => answers::json(&list),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)),
            },
            Route::Configz => answers::json(&json!({"kubeletconfig": self.settings.configz})),
            Route::ContainerLogs(pod, container) => {
                container_logs::answer(node, &pod, &container, request.uri().query().unwrap_or_default()).await
            }
            Route::NodeLogs(_) if !self.settings.server.system_logs => {
                text(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.\n")
            }
            Route::NodeLogs(path) => node_logs::answer(&path, request.uri().path().ends_with('/')).await,
            Route::Summary => self.summary(node, request.uri().query().unwrap_or_default()).await,
            Route::Metrics(wanted) => self.metrics(node, wanted).await,
            Route::Checkpoint(pod, container) => pods::checkpoint(&node.views.borrow().clone(), &pod, &container),
            Route::Stream(wanted) => match &self.streams {
                Some(streams) => streams.serve(wanted, node, request).await,
                None => text(StatusCode::NOT_IMPLEMENTED, "streams are not served by this agent\n"),
            },
        }
    }

    async fn summary(&self, node: &Handle, query: &str) -> Answer {
        let _turn = self.scrapes.acquire().await;
        let only = form_urlencoded::parse(query.as_bytes())
            .any(|(key, value)| key == "only_cpu_and_memory" && value == "true");
        match stats::measure(node).await {
            Ok(usage) if only => answers::json(&stats::summary::document(&usage, &self.rates, only)),
            Ok(usage) => {
                let usage = usage.with_disks(&self.disks.of(node).await);
                answers::json(&stats::summary::document(&usage, &self.rates, only))
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)),
        }
    }

    async fn metrics(&self, node: &Handle, wanted: Metrics) -> Answer {
        let _turn = self.scrapes.acquire().await;
        let measured = match wanted {
            Metrics::Own => {
                let volumes = self.disks.of(node).await;
                return exposed(own_metrics::text(node, &volumes, &self.calls, &self.requests));
            }
            Metrics::Probes => return exposed(node.probes.as_ref().map(Probes::exposition).unwrap_or_default()),
            Metrics::Slis => return exposed(pages::slis(self.goes().await)),
            Metrics::Resource | Metrics::Cadvisor => stats::measure(node).await,
        };
        match (wanted, measured) {
            (Metrics::Resource, measured) => exposed(stats::resource::text(measured.ok().as_ref())),
            (_, Ok(usage)) => exposed(stats::cadvisor::text(&usage)),
            (_, Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)),
        }
    }

    /// Whether the loop that starts and stops pods answers. Before there is one, nothing is wrong with it.
    async fn goes(&self) -> bool {
        let Some(node) = self.node.0.get() else { return true };
        let nobody = PodUid::from_number(0);
        tokio::time::timeout(LOOP, node.holds(&nobody)).await.is_ok()
    }
}
