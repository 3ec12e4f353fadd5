use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::methods::for_every_method;
use crate::{Answer, Deadline, Listing, Runtime, RuntimeError, v1};

/// Hears of every call that has ended, on the caller's task. A call that is given up ends without a word.
pub trait Observer: Send + Sync + 'static {
    /// `call` is the trait's method, such as `run_pod_sandbox`; `error` is what it failed with. Of a call that answers with a
    /// stream it is the beginning of the stream.
    fn called(&self, call: &'static str, took: Duration, error: Option<&RuntimeError>);
}

/// A runtime whose calls are told of; otherwise it is the runtime itself.
pub struct Observed<O> {
    runtime: Arc<dyn Runtime>,
    observer: O,
}

impl<O: Observer> Observed<O> {
    /// `runtime`, with `observer` told of its calls.
    pub fn new(runtime: Arc<dyn Runtime>, observer: O) -> Self {
        Self { runtime, observer }
    }

    fn told<T>(&self, call: &'static str, began: Instant, answer: Answer<T>) -> Answer<T> {
        self.observer.called(call, began.elapsed(), answer.as_ref().err());
        answer
    }
}

macro_rules! pass_on {
    (
        runtime once { $($call:ident $name:ident($request:ident) -> $response:ident;)* }
        runtime stream { $($scall:ident $sname:ident $sstream:ident($srequest:ident) -> $sresponse:ident;)* }
        image once { $($icall:ident $iname:ident($irequest:ident) -> $iresponse:ident;)* }
        image stream { $($iscall:ident $isname:ident $isstream:ident($isrequest:ident) -> $isresponse:ident;)* }
    ) => {
        #[async_trait::async_trait]
        impl<O: Observer> Runtime for Observed<O> {
            $(
                async fn $call(&self, request: v1::$request, by: Deadline) -> Answer<v1::$response> {
                    let began = Instant::now();
                    self.told(stringify!($call), began, self.runtime.$call(request, by).await)
                }
            )*
            $(
                async fn $scall(&self, request: v1::$srequest, by: Deadline) -> Answer<Listing<v1::$sresponse>> {
                    let began = Instant::now();
                    self.told(stringify!($scall), began, self.runtime.$scall(request, by).await)
                }
            )*
            $(
                async fn $icall(&self, request: v1::$irequest, by: Deadline) -> Answer<v1::$iresponse> {
                    let began = Instant::now();
                    self.told(stringify!($icall), began, self.runtime.$icall(request, by).await)
                }
            )*
            $(
                async fn $iscall(&self, request: v1::$isrequest, by: Deadline) -> Answer<Listing<v1::$isresponse>> {
                    let began = Instant::now();
                    self.told(stringify!($iscall), began, self.runtime.$iscall(request, by).await)
                }
            )*
        }
    };
}

for_every_method!(pass_on);
