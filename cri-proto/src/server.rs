use std::fs::Permissions;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::methods::for_every_method;
use crate::runtime::Runtime;
use crate::v1::image_service_server::{ImageService, ImageServiceServer};
use crate::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use crate::{Deadline, v1};

/// Serving a runtime on a socket failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket could not be made or protected.
    #[error("listening on {}", socket.display())]
    Listen {
        /// Where it should have been.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The server stopped by itself.
    #[error("serving CRI")]
    Serve(#[source] tonic::transport::Error),
}

/// Serves `runtime` as CRI v1 over gRPC on a Unix socket (mode 0600) until `stop` resolves.
///
/// A socket file left by an earlier run is replaced.
///
/// # Errors
/// When the socket cannot be made, or the server fails.
pub async fn serve(runtime: Arc<dyn Runtime>, socket: &Path, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
    let listener = listen(socket).map_err(|source| ServeError::Listen { socket: socket.into(), source })?;
    tonic::transport::Server::builder()
        .add_service(RuntimeServiceServer::new(Adapter(runtime.clone())))
        .add_service(ImageServiceServer::new(Adapter(runtime)))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
        .map_err(ServeError::Serve)
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[derive(Clone)]
struct Adapter(Arc<dyn Runtime>);

/// Reads `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Requests").
fn deadline(metadata: &MetadataMap) -> Deadline {
    let parsed = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(|text| {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let count: u64 = digits.parse().ok()?;
        Some(match unit {
            "H" => Duration::from_secs(count.checked_mul(3600)?),
            "M" => Duration::from_secs(count.checked_mul(60)?),
            "S" => Duration::from_secs(count),
            "m" => Duration::from_millis(count),
            "u" => Duration::from_micros(count),
            "n" => Duration::from_nanos(count),
            _ => return None,
        })
    });
    parsed.map_or(Deadline::never(), Deadline::within)
}

macro_rules! implement_server {
    (
        runtime once { $($call:ident $name:ident($request:ident) -> $response:ident;)* }
        runtime stream { $($scall:ident $sname:ident $sstream:ident($srequest:ident) -> $sresponse:ident;)* }
        image once { $($icall:ident $iname:ident($irequest:ident) -> $iresponse:ident;)* }
        image stream { $($iscall:ident $isname:ident $isstream:ident($isrequest:ident) -> $isresponse:ident;)* }
    ) => {
        implement_service!(RuntimeService
            once { $($call($request) -> $response;)* }
            stream { $($scall $sstream($srequest) -> $sresponse;)* });
        implement_service!(ImageService
            once { $($icall($irequest) -> $iresponse;)* }
            stream { $($iscall $isstream($isrequest) -> $isresponse;)* });
    };
}

macro_rules! implement_service {
    ($service:ident
        once { $($call:ident($request:ident) -> $response:ident;)* }
        stream { $($scall:ident $sstream:ident($srequest:ident) -> $sresponse:ident;)* }
    ) => {
        #[tonic::async_trait]
        impl $service for Adapter {
            $(async fn $call(&self, request: Request<v1::$request>) -> Result<Response<v1::$response>, Status> {
                let by = deadline(request.metadata());
                let answer = self.0.$call(request.into_inner(), by).await;
                answer.map(Response::new).map_err(|error| error.to_status())
            })*
            $(
                type $sstream = BoxStream<'static, Result<v1::$sresponse, Status>>;
                async fn $scall(&self, request: Request<v1::$srequest>) -> Result<Response<Self::$sstream>, Status> {
                    let by = deadline(request.metadata());
                    let items = self.0.$scall(request.into_inner(), by).await.map_err(|error| error.to_status())?;
                    Ok(Response::new(items.map(|item| item.map_err(|error| error.to_status())).boxed()))
                }
            )*
        }
    };
}

for_every_method!(implement_server);
