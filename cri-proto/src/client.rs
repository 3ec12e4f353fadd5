use std::path::{Path, PathBuf};

use futures::StreamExt;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::methods::for_every_method;
use crate::runtime::{Answer, Listing, Runtime};
use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;
use crate::{Deadline, RuntimeError, v1};

/// The kubelet's own bound: a list of a few thousand containers with their annotations fits.
const LARGEST_ANSWER: usize = 16 << 20;

/// A runtime behind a Unix socket, such as `/run/containerd/containerd.sock`.
///
/// Clones share one HTTP/2 connection, which is made again by itself when the runtime comes back.
#[derive(Clone, Debug)]
pub struct Client {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// The socket could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("connecting to the container runtime at {}", socket.display())]
pub struct ConnectError {
    socket: PathBuf,
    source: tonic::transport::Error,
}

impl Client {
    /// Connects to the runtime that listens on `socket`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(socket: impl AsRef<Path>) -> Result<Self, ConnectError> {
        let socket = socket.as_ref().to_path_buf();
        let path = socket.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is never dialled: the connector above ignores it, but HTTP/2 wants an authority.
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .map_err(|source| ConnectError { socket, source })?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(LARGEST_ANSWER),
            images: ImageServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER),
        })
    }
}

/// The runtime is told the deadline too, so that it can give up what nobody waits for.
fn timed<T>(message: T, by: Deadline) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(left) = by.left() {
        request.set_timeout(left);
    }
    request
}

macro_rules! answer_once {
    ($client:expr, $call:ident, $name:ident, $request:ident, $by:ident) => {{
        let mut client = $client.clone();
        $by.hold(stringify!($name), async move {
            match client.$call(timed($request, $by)).await {
                Ok(answer) => Ok(answer.into_inner()),
                Err(status) => Err(RuntimeError::from_status(stringify!($name), &status)),
            }
        })
        .await
    }};
}

macro_rules! answer_stream {
    ($client:expr, $call:ident, $name:ident, $request:ident, $by:ident) => {{
        let mut client = $client.clone();
        let stream = $by
            .hold(stringify!($name), async move {
                // No `grpc-timeout` here: it would end the stream, and the deadline is for its beginning.
                match client.$call($request).await {
                    Ok(answer) => Ok(answer.into_inner()),
                    Err(status) => Err(RuntimeError::from_status(stringify!($name), &status)),
                }
            })
            .await?;
        let items = stream.map(|item| item.map_err(|status| RuntimeError::from_status(stringify!($name), &status)));
        Ok(items.boxed())
    }};
}

macro_rules! implement_client {
    (
        runtime once { $($call:ident $name:ident($request:ident) -> $response:ident;)* }
        runtime stream { $($scall:ident $sname:ident $sstream:ident($srequest:ident) -> $sresponse:ident;)* }
        image once { $($icall:ident $iname:ident($irequest:ident) -> $iresponse:ident;)* }
        image stream { $($iscall:ident $isname:ident $isstream:ident($isrequest:ident) -> $isresponse:ident;)* }
    ) => {
        #[async_trait::async_trait]
        impl Runtime for Client {
            $(async fn $call(&self, request: v1::$request, by: Deadline) -> Answer<v1::$response> {
                answer_once!(self.runtime, $call, $name, request, by)
            })*
            $(async fn $scall(&self, request: v1::$srequest, by: Deadline) -> Answer<Listing<v1::$sresponse>> {
                answer_stream!(self.runtime, $scall, $sname, request, by)
            })*
            $(async fn $icall(&self, request: v1::$irequest, by: Deadline) -> Answer<v1::$iresponse> {
                answer_once!(self.images, $icall, $iname, request, by)
            })*
            $(async fn $iscall(&self, request: v1::$isrequest, by: Deadline) -> Answer<Listing<v1::$isresponse>> {
                answer_stream!(self.images, $iscall, $isname, request, by)
            })*
        }
    };
}

for_every_method!(implement_client);
