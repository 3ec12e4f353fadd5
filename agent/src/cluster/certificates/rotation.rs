use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::KeyPair;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::purpose::Purpose;
use super::request::{Name, RequestError, ask};
use super::store::Store;
use crate::api::{Client, Patience, random_part};
use crate::cluster::Bootstrap;
use crate::errors::chain;
use crate::files;

/// How long an approval may take; the kubelet's.
const APPROVAL: Duration = Duration::from_secs(15 * 60);
/// Signers date certificates back by minutes: one for a few minutes may be due at once, and the next one too.
const LEAST: Duration = Duration::from_secs(5);
/// The wall clock may jump: nothing is slept through.
const LOOK: Duration = Duration::from_secs(30);

/// A certificate that is kept good.
pub struct Rotation {
    purpose: Purpose,
    cert_dir: PathBuf,
    node: String,
    /// For a client certificate that ended before it could be renewed: with its token a new one can be had.
    bootstrap: Option<Bootstrap>,
}

impl Rotation {
    /// The node's own certificate towards the API server.
    pub fn of_client(bootstrap: Bootstrap) -> Self {
        let (cert_dir, node) = (bootstrap.cert_dir.clone(), bootstrap.node.clone());
        Self { purpose: Purpose::Client, cert_dir, node, bootstrap: Some(bootstrap) }
    }

    /// The certificate of the node's own API, at these addresses; asked for at once where there is none.
    pub fn of_server(cert_dir: PathBuf, node: String, addresses: Vec<std::net::IpAddr>) -> Self {
        Self { purpose: Purpose::Serving(addresses), cert_dir, node, bootstrap: None }
    }
}

/// Renews before the end, until `stop`. What fails is tried again, and the one in use stays.
pub async fn run(client: Client, rotation: Rotation, stop: CancellationToken) {
    let renewing = async {
        let store = Store::new(&rotation.cert_dir, &rotation.purpose);
        loop {
            until_due(&store).await;
            renew(&client, &rotation, &store).await;
            sleep(LEAST).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = renewing => {}
    }
}

async fn until_due(store: &Store) {
    let (mut seen, mut due) = (None, Timestamp::MIN);
    loop {
        let now = Timestamp::now();
        let validity = store.validity();
        if validity != seen {
            // Another one, perhaps renewed by somebody else: another moment.
            due = validity.map_or(now, |(from, until)| due_at(from, until, random_part()));
            seen = validity;
        }
        let left = Duration::try_from(due.duration_since(now)).unwrap_or_default();
        if left.is_zero() {
            return;
        }
        sleep(left.min(LOOK)).await;
    }
}

/// Between 70 and 90 % of a certificate's life, so that nodes that joined together do not come together.
fn due_at(from: Timestamp, until: Timestamp, random: f64) -> Timestamp {
    let life = until.duration_since(from);
    from.checked_add(life.mul_f64(0.2f64.mul_add(random, 0.7))).unwrap_or(until)
}

/// Returns when there is a new one.
async fn renew(client: &Client, rotation: &Rotation, store: &Store) {
    // Five tries from 2 s on, then every 32 s, as the kubelet does.
    let mut patience = Patience::new(Duration::from_secs(2), Duration::from_secs(32));
    let what = rotation.purpose.file();
    loop {
        match try_renew(client, rotation, store).await {
            Ok(()) => return info!("the certificate {what} is renewed"),
            Err(why) => warn!("renewing the certificate {what}: {why}; trying again"),
        }
        sleep(patience.delay()).await;
    }
}

async fn try_renew(client: &Client, rotation: &Rotation, store: &Store) -> Result<(), String> {
    if let Some(bootstrap) = &rotation.bootstrap
        && store.validity().is_none_or(|(_, until)| until <= Timestamp::now())
    {
        if bootstrap.from.exists() {
            return bootstrap.run().await.map_err(|error| chain(&error));
        }
        return Err(format!(
            "it has ended, and there is no bootstrap token at {}: `kubeadm token create` makes one; pods go on meanwhile",
            bootstrap.from.display()
        ));
    }
    let shown = |error: &RequestError| chain(error);
    let key = KeyPair::generate().map_err(|error| shown(&error.into()))?;
    let asked = ask(client, &rotation.purpose, (&rotation.node, &key), Name::Any, APPROVAL);
    let certificate = asked.await.map_err(|error| shown(&error))?;
    let folder = files::make_dir(&rotation.cert_dir, 0o700).map_err(|error| (rotation.cert_dir.clone(), error));
    let kept = folder.and_then(|()| store.keep(&certificate, &key));
    kept.map(drop).map_err(|(path, error)| format!("keeping {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_when_seven_to_nine_tenths_of_its_life_are_gone() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(due_at(at(1_000), at(2_000), 0.0), at(1_700));
        assert_eq!(due_at(at(1_000), at(2_000), 1.0), at(1_900));
        assert_eq!(due_at(at(1_000), at(2_000), 0.5), at(1_800));
    }
}
