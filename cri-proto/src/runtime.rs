use futures::stream::BoxStream;

use crate::methods::for_every_method;
use crate::{Deadline, RuntimeError, v1};

/// What a call that answers once comes back with.
pub type Answer<T> = Result<T, RuntimeError>;

/// What a call that answers with a stream comes back with: items until the end, the caller's hang-up or an error.
pub type Listing<T> = BoxStream<'static, Result<T, RuntimeError>>;

macro_rules! define_trait {
    (
        runtime once { $($call:ident $name:ident($request:ident) -> $response:ident;)* }
        runtime stream { $($scall:ident $sname:ident $sstream:ident($srequest:ident) -> $sresponse:ident;)* }
        image once { $($icall:ident $iname:ident($irequest:ident) -> $iresponse:ident;)* }
        image stream { $($iscall:ident $isname:ident $isstream:ident($isrequest:ident) -> $isresponse:ident;)* }
    ) => {
        /// A container runtime: CRI v1's `RuntimeService` and `ImageService` as one trait.
        ///
        /// Each method is the CRI method of the same name. A method that a runtime does not have answers
        /// [`Kind::Unimplemented`](crate::Kind::Unimplemented), which is also what the default bodies do,
        /// so that an implementation lists exactly what it can.
        #[async_trait::async_trait]
        #[allow(unused_variables, reason = "the default bodies refuse without looking")]
        pub trait Runtime: Send + Sync + 'static {
            $(
                #[doc = concat!("CRI `RuntimeService/", stringify!($name), "`.")]
                async fn $call(&self, request: v1::$request, by: Deadline) -> Answer<v1::$response> {
                    Err(refused(stringify!($name)))
                }
            )*
            $(
                #[doc = concat!("CRI `RuntimeService/", stringify!($sname), "`.")]
                async fn $scall(&self, request: v1::$srequest, by: Deadline) -> Answer<Listing<v1::$sresponse>> {
                    Err(refused(stringify!($sname)))
                }
            )*
            $(
                #[doc = concat!("CRI `ImageService/", stringify!($iname), "`.")]
                async fn $icall(&self, request: v1::$irequest, by: Deadline) -> Answer<v1::$iresponse> {
                    Err(refused(stringify!($iname)))
                }
            )*
            $(
                #[doc = concat!("CRI `ImageService/", stringify!($isname), "`.")]
                async fn $iscall(&self, request: v1::$isrequest, by: Deadline) -> Answer<Listing<v1::$isresponse>> {
                    Err(refused(stringify!($isname)))
                }
            )*
        }
    };
}

for_every_method!(define_trait);

fn refused(call: &'static str) -> RuntimeError {
    RuntimeError::new(call, crate::Kind::Unimplemented, format!("this runtime does not offer {call}"))
}
