//! Whoever asks a node's own API directly: curl, from the control plane's side of the wire.

use std::io::Read;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::control_plane::ControlPlane;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    /// With neither certificate nor token.
    Nobody,
    /// With `<file>.crt` and `<file>.key` of the control plane's folder.
    Certificate(&'a str),
    /// With a bearer token.
    Token(&'a str),
}

/// The APIs of one node.
pub struct KubeletClient<'a> {
    plane: &'a ControlPlane,
    /// `192.0.2.x`.
    address: String,
}

impl<'a> KubeletClient<'a> {
    /// For the node with the address 192.0.2.`last`.
    #[must_use]
    pub fn new(plane: &'a ControlPlane, last: u8) -> Self {
        Self { plane, address: format!("192.0.2.{last}") }
    }

    /// Status and body of one request to :10250, whose certificate must be the cluster's.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask(&self, who: Who, method: &str, path: &str) -> Result<(u16, String)> {
        let mut curl = self.secure(who, path);
        if method == "HEAD" {
            curl.arg("--head")
        } else {
            curl.args(["-X", method])
        };
        answer(&mut curl)
    }

    /// Status and body of what is put to :10250.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn put(&self, who: Who, path: &str, body: &str) -> Result<(u16, String)> {
        answer(self.secure(who, path).args(["-X", "PUT", "--data-binary", body]))
    }

    /// Reads an answer at two kilobytes a second, until it is dropped. Returns when the answer has begun.
    ///
    /// # Errors
    /// When there is none.
    pub fn trickle(&self, who: Who, path: &str) -> Result<Trickle> {
        let mut curl = self.secure(who, path);
        let child = curl.args(["-N", "--limit-rate", "2k"]).stdout(Stdio::piped()).spawn().context("running curl")?;
        let mut reading = Trickle(child);
        let begun = reading.0.stdout.as_mut().context("curl's output")?.read(&mut [0; 16])?;
        ensure!(begun > 0, "there is no answer");
        Ok(reading)
    }

    fn secure(&self, who: Who, path: &str) -> Command {
        let mut curl = self.curl();
        curl.arg("--cacert").arg(self.plane.path("ca.crt"));
        match who {
            Who::Nobody => {}
            Who::Certificate(file) => {
                curl.arg("--cert").arg(self.plane.path(&format!("{file}.crt")));
                curl.arg("--key").arg(self.plane.path(&format!("{file}.key")));
            }
            Who::Token(token) => drop(curl.arg("-H").arg(format!("Authorization: Bearer {token}"))),
        }
        curl.arg(format!("https://{}:10250{path}", self.address));
        curl
    }

    /// Status and body of one request by whatever URL, from the control plane's side.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn get(&self, url: &str) -> Result<(u16, String)> {
        answer(self.curl().arg("-k").arg(url))
    }

    /// A connection to one of the node's ports, from the control plane's side.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(&self, port: u16) -> Result<TcpStream> {
        let netns = std::fs::File::open(format!("/run/netns/{}", self.plane.netns()))?;
        let at = format!("{}:{port}", self.address);
        // A thread of its own goes into the namespace; the socket stays there.
        let connecting = std::thread::spawn(move || -> Result<TcpStream> {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            Ok(TcpStream::connect(at)?)
        });
        connecting.join().map_err(|_| anyhow::anyhow!("the connecting thread panicked"))?
    }

    fn curl(&self) -> Command {
        let mut curl = self.plane.command("curl".as_ref());
        // Dots in a path are the test's business.
        curl.args(["-sS", "--path-as-is", "--max-time", "60", "-w", "\n%{http_code}"]);
        curl
    }
}

/// A slow reader. Dropping it ends it.
pub struct Trickle(Child);

impl Drop for Trickle {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn answer(curl: &mut Command) -> Result<(u16, String)> {
    let output = curl.output().context("running curl")?;
    ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').context("no status")?;
    Ok((code.parse()?, body.to_owned()))
}
