//! Network namespaces for one test: a "node" that has a pod network, a neighbour on its outer wire, and pods.
//!
//! A namespace is held by a descriptor alone. Nothing has a name in the file system, so nothing is left when a test
//! panics.

use std::{
    fs::File,
    future::Future,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

/// What never answers is given up after this; on a busy machine an answer takes milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// The node's address on the outer wire.
pub const NODE: &str = "192.0.2.1";

/// The neighbour's address on the outer wire.
pub const NEIGHBOUR: &str = "192.0.2.2";

/// A network namespace, alive as long as it is held.
#[derive(Clone, Debug)]
pub struct Netns(Arc<File>);

impl Netns {
    /// A fresh one, with its loopback up.
    ///
    /// # Errors
    /// The system refuses, most likely for want of root.
    pub fn new() -> Result<Self> {
        let netns = Self::bare()?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// A fresh one as the kernel makes it, with everything down.
    ///
    /// # Errors
    /// The system refuses, most likely for want of root.
    pub fn bare() -> Result<Self> {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
            Ok(Self(Arc::new(File::open("/proc/thread-self/ns/net")?)))
        };
        std::thread::scope(|scope| scope.spawn(make).join().expect("the thread does not panic"))
    }

    /// One that has a name already, as those of `ip netns` do.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn named(name: &str) -> Result<Self> {
        let path = Path::new("/run/netns").join(name);
        Ok(Self(Arc::new(File::open(&path).with_context(|| path.display().to_string())?)))
    }

    /// A descriptor to hand to the pod network.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn fd(&self) -> Result<OwnedFd> {
        Ok(self.0.try_clone()?.into())
    }

    /// A path to it that other processes can open while this one holds it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs something in a thread inside; sockets that it opens stay there.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    ///
    /// # Panics
    /// When what runs inside panics.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        let enter = || setns(&self.0, CloneFlags::CLONE_NEWNET).map(|()| inside()).context("entering");
        std::thread::scope(|scope| match scope.spawn(enter).join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// As [`Netns::run`], where `/proc/sys` cannot be written.
    ///
    /// # Errors
    /// The mount is refused, or what runs inside fails.
    pub fn with_read_only_sysctls<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.run(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let nothing = None::<&str>;
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
            mount(Some("/proc/sys"), "/proc/sys", nothing, MsFlags::MS_BIND, nothing)?;
            let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(nothing, "/proc/sys", nothing, read_only, nothing)?;
            inside()
        })?
    }

    /// Runs a future on a runtime of its own inside.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn block_on<T: Send>(&self, future: impl Future<Output = T> + Send) -> Result<T> {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(future))
        })?
    }

    /// Runs a program inside and gives what it printed.
    ///
    /// # Errors
    /// It cannot be run or fails; its words are in the error.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.run(|| Command::new(program).args(arguments).output())??;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {}: {words}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `ip` with these words.
    ///
    /// # Errors
    /// As [`Netns::command`].
    pub fn ip(&self, words: &str) -> Result<String> {
        self.command("ip", &words.split(' ').collect::<Vec<_>>())
    }

    /// Reads a kernel parameter of this namespace by its path below `/proc/sys`.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        let path = Path::new("/proc/sys").join(key);
        Ok(self.run(|| std::fs::read_to_string(path))??.trim().to_owned())
    }

    /// Sets a kernel parameter of this namespace.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| std::fs::write(path, value))?.with_context(|| format!("setting {key}"))
    }

    /// Answers every TCP connection to the address with the line `<name> <address of the peer>`, until the process ends.
    ///
    /// The client closes first. Whoever does so keeps the connection's ports for a minute: a server that kept them would
    /// refuse now and then the next client to whom masquerading gives one of them (RFC 9293, 3.6.1).
    ///
    /// # Errors
    /// The address is taken.
    pub fn serve_tcp(&self, address: &str, name: &'static str) -> Result<()> {
        let listener = self.run(|| TcpListener::bind(address))??;
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || -> std::io::Result<usize> {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    writeln!(stream, "{name} {}", stream.peer_addr()?.ip())?;
                    stream.read(&mut [0])
                });
            }
        });
        Ok(())
    }

    /// As [`Netns::serve_tcp`] for datagrams.
    ///
    /// # Errors
    /// The address is taken.
    pub fn serve_udp(&self, address: &str, name: &'static str) -> Result<()> {
        let socket = self.run(|| UdpSocket::bind(address))??;
        std::thread::spawn(move || {
            while let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
                _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
            }
        });
        Ok(())
    }

    /// The line that a TCP server says.
    ///
    /// # Errors
    /// Nobody answers in time.
    pub fn ask_tcp(&self, address: &str) -> Result<String> {
        self.ask_tcp_for(address, PATIENCE)
    }

    /// As [`Netns::ask_tcp`], where the connection may take longer.
    ///
    /// # Errors
    /// Nobody answers in time.
    pub fn ask_tcp_for(&self, address: &str, patience: Duration) -> Result<String> {
        self.run(|| {
            let stream = TcpStream::connect_timeout(&address.parse()?, patience)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer)?;
            Ok(answer.trim_end().to_owned())
        })?
    }

    /// What a UDP server says.
    ///
    /// # Errors
    /// Nobody answers in time.
    pub fn ask_udp(&self, address: &str) -> Result<String> {
        self.udp_client(address)?.ask()
    }

    /// A client that keeps its port from question to question.
    ///
    /// # Errors
    /// There is no way to the address.
    pub fn udp_client(&self, address: &str) -> Result<UdpClient> {
        self.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(address.parse::<SocketAddr>()?)?;
            Ok(UdpClient(socket))
        })?
    }
}

/// See [`Netns::udp_client`].
#[derive(Debug)]
pub struct UdpClient(UdpSocket);

impl UdpClient {
    /// What the server says.
    ///
    /// # Errors
    /// Nobody answers in time, or somebody refuses.
    pub fn ask(&self) -> Result<String> {
        self.0.send(b"?")?;
        let mut answer = [0; 64];
        let length = self.0.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }
}

/// A node and its neighbour on a wire of their own.
#[derive(Debug)]
pub struct Wire {
    /// Where the pod network is made.
    pub node: Netns,
    /// Somebody else: knows the node's address and no way to pods.
    pub neighbour: Netns,
}

impl Wire {
    /// Node and neighbour, joined by `wan` and `lan`; the node's way to the world leads to the neighbour.
    ///
    /// # Errors
    /// The system refuses, most likely for want of root.
    pub fn new() -> Result<Self> {
        let (node, neighbour) = (Netns::new()?, Netns::new()?);
        node.ip("link add wan type veth peer name lan")?;
        node.ip(&format!("link set lan netns {}", neighbour.path()))?;
        for (netns, link, address) in [(&node, "wan", NODE), (&neighbour, "lan", NEIGHBOUR)] {
            netns.ip(&format!("address add {address}/24 dev {link}"))?;
            netns.ip(&format!("link set {link} up"))?;
        }
        node.ip(&format!("route add default via {NEIGHBOUR}"))?;
        Ok(Self { node, neighbour })
    }
}

/// Whether kernel tests can run here. At a desk without root they say so and pass; in CI that is a failure.
///
/// # Panics
/// In CI without root.
pub fn can_run() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    assert!(is_root || std::env::var_os("CI").is_none(), "kernel tests need root");
    if !is_root {
        _ = writeln!(std::io::stderr(), "skipped: kernel tests need root");
    }
    is_root
}
