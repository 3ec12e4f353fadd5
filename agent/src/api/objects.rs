//! Single objects, by their types.

use hyper::Method;
use k8s_openapi::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::{Body, Call, Client};
use super::error::ApiError;

/// Where all objects of a kind are, in one namespace or in every one.
pub fn path_of_all<K: Resource>(namespace: Option<&str>) -> String {
    let root = match K::GROUP {
        "" => "/api".to_owned(),
        group => format!("/apis/{group}"),
    };
    let within = namespace.map(|name| format!("/namespaces/{name}")).unwrap_or_default();
    format!("{root}/{}{within}/{}", K::VERSION, K::URL_PATH_SEGMENT)
}

/// Where one object is.
pub fn path_of<K: Resource>(namespace: Option<&str>, name: &str) -> String {
    format!("{}/{name}", path_of_all::<K>(namespace))
}

impl Client {
    /// Reads one object; `None` where there is none.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn read<K: Resource + DeserializeOwned>(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<K>, ApiError> {
        match self.ask(Call::get(path_of::<K>(namespace, name))).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates one object, below `path` (see [`path_of_all`]; subresources such as `…/token` go this way too).
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn create<B: Serialize, A: DeserializeOwned>(&self, path: &str, object: &B) -> Result<A, ApiError> {
        self.ask(Call::send(Method::POST, path, Body::Json, encode(path, object)?)).await
    }

    /// Replaces one object; its `resourceVersion` guards against overwriting somebody else's change.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn replace<K: Serialize + DeserializeOwned>(&self, path: &str, object: &K) -> Result<K, ApiError> {
        self.ask(Call::send(Method::PUT, path, Body::Json, encode(path, object)?)).await
    }

    /// Patches one object or its subresource.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn patch<K: DeserializeOwned>(&self, path: &str, kind: Body, patch: &Value) -> Result<K, ApiError> {
        self.ask(Call::send(Method::PATCH, path, kind, encode(path, patch)?)).await
    }

    /// Deletes one object at once, if it is still the one with this uid. One that is gone already is fine.
    ///
    /// # Errors
    /// [`ApiError`]; a conflict when there is another object of that name now.
    pub async fn delete_now(&self, path: &str, uid: &str) -> Result<(), ApiError> {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
        match self.bytes(&Call::send(Method::DELETE, path, Body::Json, encode(path, &options)?)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn encode(path: &str, value: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(value).map_err(|source| ApiError::Unreadable { call: path.to_owned(), source: source.into() })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::Lease;
    use k8s_openapi::api::core::v1::{Node, Pod};

    use super::*;

    #[test]
    fn paths_follow_group_version_and_scope() {
        assert_eq!(path_of_all::<Pod>(None), "/api/v1/pods");
        assert_eq!(path_of::<Node>(None, "n1"), "/api/v1/nodes/n1");
        let lease = path_of::<Lease>(Some("kube-node-lease"), "n1");
        assert_eq!(lease, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1");
    }
}
