//! A sandbox directory with a real shim on it, and containers with a busybox root; gone when dropped.
#![allow(dead_code, clippy::missing_panics_doc, reason = "each test file uses its part")]

use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use shim::client::{CallError, Client};
use shim::plan::{Capabilities, Device, JoinNamespace, Launch, Mount, Root, User};
use shim::wire::{Event, ExitRecord, Packet, PidRecord, Reply, Request};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What containers get by default elsewhere: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
/// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
pub(crate) const USUAL_CAPABILITIES: u64 = 0xa804_25fb;

pub(crate) struct Pod {
    place: tempfile::TempDir,
    shims: Vec<Child>,
    watcher: Option<Client>,
    next: u32,
    /// The shim gets a mount namespace of its own whose mounts are shared, to be a host for those who want to
    /// propagate mounts.
    pub(crate) own_mounts: bool,
}

pub(crate) fn text(text: &str) -> CString {
    CString::new(text).expect("no NUL in a test")
}

impl Pod {
    /// With a pause that has network, IPC and UTS namespaces of its own.
    pub(crate) fn new() -> Self {
        Self::with_pause((libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) as u64)
    }

    pub(crate) fn with_pause(create: u64) -> Self {
        let mut pod = Self::without_shim();
        pod.start_with_pause(create);
        pod
    }

    pub(crate) fn start_with_pause(&mut self, create: u64) {
        let pause = Launch { create, hostname: Some(text("web-0")), cwd: text("/"), ..Launch::default() };
        fs::write(self.directory().join("pause.launch"), pause.encode()).expect("writing the pause's launch");
        self.start_shim().expect("the shim starts");
    }

    pub(crate) fn without_shim() -> Self {
        let place = tempfile::Builder::new().prefix("shim-test-").tempdir().expect("a directory");
        let pod = Self { place, shims: Vec::new(), watcher: None, next: 0, own_mounts: false };
        for folder in ["s/c", "s/x", "log", "root/bin", "root/etc", "root/tmp"] {
            fs::create_dir_all(pod.path(folder)).expect("a folder");
        }
        fs::copy("/bin/busybox", pod.path("root/bin/busybox")).expect("busybox-static is installed");
        let list = Command::new("/bin/busybox").arg("--list").output().expect("running busybox");
        for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
            symlink("busybox", pod.path("root/bin").join(name)).expect("a link");
        }
        pod
    }

    /// `Err` with what it said on its stdout.
    pub(crate) fn start_shim(&mut self) -> Result<(), String> {
        // The static one that the runtime carries can be named instead, for figures.
        let program = std::env::var("LONGSHORE_SHIM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_longshore-shim").into());
        let mut command = Command::new(program);
        if self.own_mounts {
            own_shared_mounts(&mut command);
        }
        command.arg(self.directory()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("starting the shim");
        let mut said = String::new();
        child.stdout.take().expect("it is piped").read_to_string(&mut said).expect("reading its stdout");
        if !said.is_empty() {
            assert_eq!(child.wait().expect("waiting for it").code(), Some(1));
            return Err(said);
        }
        self.shims.push(child);
        Ok(())
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill_shim(&mut self) {
        let mut shim = self.shims.pop().expect("there is one");
        shim.kill().expect("killing the shim");
        shim.wait().expect("waiting for the shim");
        self.watcher = None;
    }

    pub(crate) fn shim_pid(&self) -> u32 {
        self.shims.last().expect("there is one").id()
    }

    /// Waits for a shim that ends by itself.
    pub(crate) fn wait_for_shim(&mut self) -> Option<i32> {
        self.shims.pop().expect("there is one").wait().expect("waiting for the shim").code()
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.place.path().join(below)
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.path("s")
    }

    pub(crate) fn pause(&self) -> i32 {
        let record = fs::read_to_string(self.directory().join("pause.pid")).expect("the pause is on record");
        record.parse::<PidRecord>().expect("a record").pid
    }

    pub(crate) fn client(&self) -> Client {
        let client = Client::connect(&self.directory()).expect("connecting to the shim");
        client.set_timeout(Some(PATIENCE)).expect("a timeout");
        client
    }

    pub(crate) fn call(&self, request: Request) -> Result<Reply, CallError> {
        self.client().call(&request, &[]).map(|(reply, _)| reply)
    }

    /// A container's plan as the runtime would make it.
    pub(crate) fn plan(&self, script: &str) -> Launch {
        let kinds = [("net", libc::CLONE_NEWNET), ("ipc", libc::CLONE_NEWIPC), ("uts", libc::CLONE_NEWUTS)];
        let join = kinds.map(|(name, kind)| JoinNamespace {
            kind: kind as u64,
            path: format!("/proc/{}/ns/{name}", self.pause()).into(),
        });
        Launch {
            join: join.into(),
            create: (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64,
            root: Some(root(&self.path("root"))),
            capabilities: capabilities(USUAL_CAPABILITIES),
            no_new_privileges: true,
            oom_score_adj: Some(500),
            cwd: text("/"),
            args: ["/bin/sh", "-c", script].map(text).into(),
            env: vec![text("PATH=/bin"), text("LANG=C")],
            ..Launch::default()
        }
    }

    /// An exec's plan.
    pub(crate) fn exec_plan(&self, container: i32, script: &str) -> Launch {
        let kinds = [
            ("net", libc::CLONE_NEWNET),
            ("ipc", libc::CLONE_NEWIPC),
            ("uts", libc::CLONE_NEWUTS),
            ("pid", libc::CLONE_NEWPID),
            ("mnt", libc::CLONE_NEWNS),
        ];
        let join = kinds.map(|(name, kind)| JoinNamespace {
            kind: kind as u64,
            path: format!("/proc/{container}/ns/{name}").into(),
        });
        Launch { join: join.into(), create: 0, root: None, ..self.plan(script) }
    }

    pub(crate) fn write_container(&self, id: &str, launch: &Launch, stdin: &str) {
        let directory = self.directory().join("c").join(id);
        fs::create_dir_all(&directory).expect("a container's directory");
        fs::write(directory.join("launch"), launch.encode()).expect("its launch");
        fs::write(directory.join("log"), format!("{}\n", self.log_path(id).display())).expect("its log path");
        fs::write(directory.join("stdin"), stdin).expect("its stdin");
    }

    pub(crate) fn try_start(&self, id: &str, launch: &Launch, stdin: &str) -> Result<i32, CallError> {
        self.write_container(id, launch, stdin);
        match self.call(Request::Start { id: id.into() })? {
            Reply::Started { pid } => Ok(pid),
            other => panic!("a start is answered with {other:?}"),
        }
    }

    pub(crate) fn start(&self, id: &str, launch: &Launch) -> i32 {
        self.try_start(id, launch, "no").expect("the container starts")
    }

    /// Starts a container, waits for its end; exit code and its log's contents.
    pub(crate) fn run(&mut self, launch: &Launch) -> (i32, String) {
        self.next += 1;
        let id = format!("run{}", self.next);
        self.watch();
        self.start(&id, launch);
        let code = self.wait(&id);
        (code, self.output(&id))
    }

    /// Runs an exec with pipes for its output; exit code, stdout and stderr.
    pub(crate) fn exec(
        &mut self,
        id: &str,
        launch: &Launch,
        input: Option<OwnedFd>,
    ) -> Result<(i32, String, String), CallError> {
        self.watch();
        let directory = self.directory().join("x").join(id);
        fs::create_dir_all(&directory).expect("an exec's directory");
        fs::write(directory.join("launch"), launch.encode()).expect("its launch");
        let null: OwnedFd = fs::File::open("/dev/null").expect("/dev/null").into();
        let (mut out, out_end) = std::io::pipe().expect("a pipe");
        let (mut err, err_end) = std::io::pipe().expect("a pipe");
        let stdin = input.as_ref().unwrap_or(&null);
        self.client().call(&Request::Exec { id: id.into() }, &[stdin.as_fd(), out_end.as_fd(), err_end.as_fd()])?;
        drop((out_end, err_end));
        let (mut stdout, mut stderr) = (String::new(), String::new());
        out.read_to_string(&mut stdout).expect("its stdout");
        err.read_to_string(&mut stderr).expect("its stderr");
        Ok((self.wait(id), stdout, stderr))
    }

    /// Begins to listen for events, if not done before.
    pub(crate) fn watch(&mut self) {
        if self.watcher.is_none() {
            let client = self.client();
            assert_eq!(client.call(&Request::Watch, &[]).expect("watching").0, Reply::Done);
            self.watcher = Some(client);
        }
    }

    pub(crate) fn event(&mut self) -> Event {
        self.watch();
        match self.watcher.as_ref().expect("just made").receive().expect("an event comes").0 {
            Packet::Event(event) => event,
            other => panic!("{other:?} instead of an event"),
        }
    }

    /// Waits for the end of a container or exec. What is told is on disk already.
    pub(crate) fn wait(&mut self, id: &str) -> i32 {
        loop {
            if let Event::Exited { id: ended, code, at } = self.event()
                && ended == id
            {
                let record = self.exit_record(id).expect("an exit is on disk before it is told");
                assert_eq!((record.code, record.at), (code, at));
                return code;
            }
        }
    }

    pub(crate) fn exit_record(&self, id: &str) -> Option<ExitRecord> {
        let paths = ["c", "x"].map(|folder| self.directory().join(folder).join(id).join("exit"));
        paths.iter().find_map(|path| fs::read_to_string(path).ok()?.parse().ok())
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.path("log").join(format!("{id}.log"))
    }

    /// The raw log.
    pub(crate) fn log(&self, id: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path(id)).unwrap_or_default()).into_owned()
    }

    /// What a container wrote, without what the log adds.
    pub(crate) fn output(&self, id: &str) -> String {
        contents(&self.log(id))
    }

    /// Waits until the log has a line with this content, with inotify instead of time.
    pub(crate) fn wait_for_output(&self, id: &str, wanted: &str) {
        let path = self.log_path(id);
        wait_for_change(&path, || self.output(id).lines().any(|line| line.contains(wanted)));
    }
}

/// Contents of a log's lines, partial ones joined.
pub(crate) fn contents(log: &str) -> String {
    let content = |line: &str| {
        let mut parts = line.splitn(4, ' ');
        let tag = parts.nth(2).unwrap_or_default();
        format!("{}{}", parts.next().unwrap_or_default(), if tag == "P" { "" } else { "\n" })
    };
    // Not `lines`: a terminal's carriage returns belong to the content.
    log.split_terminator('\n').map(content).collect()
}

/// Returns when the condition holds; asks again after each change of a file (or its directory).
pub(crate) fn wait_for_change(path: &Path, mut condition: impl FnMut() -> bool) {
    let directory = CString::new(path.parent().expect("a parent").as_os_str().as_encoded_bytes()).expect("no NUL");
    // SAFETY: plain system calls on live buffers; the descriptor is closed at the end.
    unsafe {
        let notify = libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK);
        assert!(notify >= 0 && libc::inotify_add_watch(notify, directory.as_ptr(), libc::IN_ALL_EVENTS) >= 0);
        while !condition() {
            let mut ready = libc::pollfd { fd: notify, events: libc::POLLIN, revents: 0 };
            let count = libc::poll(&mut ready, 1, PATIENCE.as_millis() as i32);
            assert!(count > 0, "nothing happens at {}", path.display());
            let mut buffer = [0u8; 4096];
            while libc::read(notify, buffer.as_mut_ptr().cast(), buffer.len()) > 0 {}
        }
        libc::close(notify);
    }
}

pub(crate) fn capabilities(set: u64) -> Capabilities {
    Capabilities { bounding: set, effective: set, permitted: set, inheritable: 0, ambient: 0 }
}

pub(crate) fn user(id: u32) -> User {
    User { uid: id, gid: id, groups: vec![id, 4242], umask: None }
}

fn filesystem(fstype: &str, target: &str, flags: u64, data: &str) -> Mount {
    Mount {
        source: text(fstype),
        target: target.into(),
        fstype: text(fstype),
        flags,
        data: text(data),
        ..Mount::default()
    }
}

/// Root, mounts, devices, links and masks as in an ordinary OCI spec.
pub(crate) fn root(path: &Path) -> Root {
    let safe = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;
    let device = |path: &str, minor, major| Device {
        path: path.into(),
        mode: libc::S_IFCHR | 0o666,
        major,
        minor,
        uid: 0,
        gid: 0,
    };
    let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
    Root {
        path: path.to_owned(),
        readonly: false,
        propagation: libc::MS_SLAVE | libc::MS_REC,
        mounts: vec![
            filesystem("proc", "/proc", safe, ""),
            filesystem("tmpfs", "/dev", libc::MS_NOSUID | libc::MS_STRICTATIME, "mode=755,size=65536k"),
            filesystem(
                "devpts",
                "/dev/pts",
                libc::MS_NOSUID | libc::MS_NOEXEC,
                "newinstance,ptmxmode=0666,mode=0620,gid=5",
            ),
            filesystem("tmpfs", "/dev/shm", safe, "mode=1777,size=65536k"),
            filesystem("mqueue", "/dev/mqueue", safe, ""),
            filesystem("sysfs", "/sys", safe | libc::MS_RDONLY, ""),
        ],
        devices: vec![
            device("/dev/null", 3, 1),
            device("/dev/zero", 5, 1),
            device("/dev/full", 7, 1),
            device("/dev/random", 8, 1),
            device("/dev/urandom", 9, 1),
            device("/dev/tty", 0, 5),
        ],
        links: [
            ("/proc/self/fd", "/dev/fd"),
            ("/proc/self/fd/0", "/dev/stdin"),
            ("/proc/self/fd/1", "/dev/stdout"),
            ("/proc/self/fd/2", "/dev/stderr"),
            ("pts/ptmx", "/dev/ptmx"),
        ]
        .map(|(target, path)| (text(target), path.into()))
        .into(),
        masked: paths(&[
            "/proc/asound",
            "/proc/acpi",
            "/proc/interrupts",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware",
            "/sys/devices/virtual/powercap",
        ]),
        readonly_paths: paths(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
    }
}

/// Borrows three of the same.
pub(crate) fn thrice(file: &OwnedFd) -> [BorrowedFd<'_>; 3] {
    [file.as_fd(); 3]
}

fn own_shared_mounts(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let enter = || {
        // SAFETY: plain system calls with static texts, fine between fork and exec.
        let done = unsafe {
            let change =
                |flags| libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), flags, std::ptr::null());
            libc::unshare(libc::CLONE_NEWNS) == 0
                && change(libc::MS_PRIVATE | libc::MS_REC) == 0
                && change(libc::MS_SHARED | libc::MS_REC) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure only makes system calls.
    unsafe { command.pre_exec(enter) };
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.watcher = None;
        let asked = Client::connect(&self.directory()).and_then(|client| {
            client.set_timeout(Some(PATIENCE))?;
            Ok(client.call(&Request::Shutdown, &[]))
        });
        if !matches!(asked, Ok(Ok(_))) {
            self.kill_what_is_on_record();
        }
        for mut shim in self.shims.drain(..) {
            if asked.is_err() {
                let _ = shim.kill();
            }
            let _ = shim.wait();
        }
    }
}

impl Pod {
    fn kill_what_is_on_record(&self) {
        let folders = ["c", "x"].map(|folder| self.directory().join(folder));
        let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        let files = entries.map(|entry| entry.path().join("pid")).chain([self.directory().join("pause.pid")]);
        for record in files.filter_map(|file| fs::read_to_string(file).ok()?.parse::<PidRecord>().ok()) {
            // SAFETY: only numbers.
            unsafe { libc::kill(record.pid, libc::SIGKILL) };
        }
    }
}
