//! Calls about the runtime itself.

use std::collections::HashMap;

use cri_proto::{KUBELET_API_VERSION, Kind, v1};

use crate::Embedded;
use crate::error::LifeError;
use crate::sandbox::wish::HANDLERS;

pub(super) fn version() -> v1::VersionResponse {
    v1::VersionResponse {
        version: KUBELET_API_VERSION.to_owned(),
        runtime_name: "longshore".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}

pub(super) fn runtime_config() -> v1::RuntimeConfigResponse {
    let linux = v1::LinuxRuntimeConfiguration { cgroup_driver: v1::CgroupDriver::Cgroupfs.into() };
    v1::RuntimeConfigResponse { linux: Some(linux) }
}

impl Embedded {
    /// Both conditions hold as long as we are there: what they stand for was made or refused when we were opened.
    pub(super) fn say_status(&self, verbose: bool) -> v1::StatusResponse {
        let fine = |kind: &str| v1::RuntimeCondition { r#type: kind.to_owned(), status: true, ..Default::default() };
        let user_namespaces = std::path::Path::new("/proc/self/ns/user").exists();
        let handler = |name: &str| v1::RuntimeHandler {
            name: name.to_owned(),
            features: Some(v1::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces }),
        };
        let info = match verbose {
            true => HashMap::from([("cgroups".to_owned(), format!("{:?}", self.core.cgroups.version()))]),
            false => HashMap::new(),
        };
        v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions: vec![fine("RuntimeReady"), fine("NetworkReady")] }),
            info,
            runtime_handlers: HANDLERS.map(handler).to_vec(),
            features: Some(v1::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
            }),
        }
    }

    /// The pod range is fixed when the runtime is opened: another one cannot be taken up while pods have addresses.
    pub(super) fn check_runtime_config(
        &self,
        request: &v1::UpdateRuntimeConfigRequest,
    ) -> Result<v1::UpdateRuntimeConfigResponse, LifeError> {
        let network = request.runtime_config.as_ref().and_then(|config| config.network_config.as_ref());
        let wanted = network.map_or("", |network| network.pod_cidr.as_str());
        let own = self.pod_cidr.to_string();
        if wanted.is_empty() || wanted.split(',').any(|cidr| cidr == own) {
            return Ok(v1::UpdateRuntimeConfigResponse {});
        }
        let why = format!("the pod network has the range {own}; {wanted} needs a restart with that range");
        Err(LifeError::new(Kind::FailedPrecondition, why))
    }
}
