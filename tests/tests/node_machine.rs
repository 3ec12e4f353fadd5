//! What pods get of the machine itself: block devices and huge pages.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::agent::Agent;

const SOON: Duration = Duration::from_secs(60);

fn runs(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
}

fn ended(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["terminated"].is_object()
}

fn ends_clean(mut agent: Agent) -> Result<()> {
    agent.interrupt(Duration::from_secs(60))?;
    let left = agent.place().leftovers();
    ensure!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), agent.log());
    Ok(())
}

/// Not every machine can show this, and none has to: a silent skip would read as a pass.
fn not_here(why: &str) {
    _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// A file as a block device, until it is dropped.
struct Loop(PathBuf);

impl Loop {
    /// `None` where this machine has no loop devices.
    fn of(file: &Path) -> Result<Option<Self>> {
        if !Path::new("/dev/loop-control").exists() {
            not_here("this machine has no loop devices");
            return Ok(None);
        }
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output().context("losetup")?;
        ensure!(made.status.success(), "losetup: {}", String::from_utf8_lossy(&made.stderr));
        Ok(Some(Self(String::from_utf8(made.stdout)?.trim().into())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// A PersistentVolume that is this device, and a claim for it.
fn disk(device: &Path) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: disk}}\nspec:\n  accessModes: [ReadWriteOnce]\n  \
         volumeMode: Block\n  storageClassName: manual\n  capacity: {{storage: 1Mi}}\n  local: {{path: {}}}\n  \
         nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: \
         In, values: [test-node]}}]}}]}}}}\n---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: \
         data}}\nspec: {{accessModes: [ReadWriteOnce], volumeMode: Block, storageClassName: manual, resources: \
         {{requests: {{storage: 1Mi}}}}}}\n",
        device.display()
    )
}

/// A pod that has the claim; `how` says as what.
fn pod(name: &str, script: &str, read_only: bool, how: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         restartPolicy: Never\n  volumes: [{{name: d, persistentVolumeClaim: {{claimName: data, readOnly: \
         {read_only}}}}}]\n  containers:\n  - name: main\n    image: busybox\n    command: [sh, -c, {script:?}]\n    \
         {how}\n"
    )
}

#[test]
fn a_block_volume_is_a_device_in_its_containers_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("disk");
    fs::write(&file, vec![0; 4 << 20])?;
    let Some(device) = Loop::of(&file)? else { return Ok(()) };
    let used = "volumeDevices: [{name: d, devicePath: /dev/data}]";
    let writes = "echo kept | dd of=/dev/data conv=notrunc,fsync 2>/dev/null && echo written; sleep 1000000";
    let reads = "head -c 5 /dev/data; (echo x >/dev/data) 2>&1";
    let mut agent = Agent::run(&[("disk.yaml", &disk(&device.0)), ("a.yaml", &pod("writes", writes, false, used))])?;
    agent.wait_for_pod("writes", SOON, runs)?;
    agent.wait("what it prints", SOON, |agent| Ok((agent.print(&["logs", "writes"])? == "written\n").then_some(())))?;

    agent.write("b.yaml", &pod("reads", reads, true, used))?;
    agent.wait_for_pod("reads", SOON, ended)?;
    let said = agent.print(&["logs", "reads"])?;
    ensure!(said.starts_with("kept\n") && said.contains("Operation not permitted"), "{said}");

    agent.write("c.yaml", &pod("mounts", "true", false, "volumeMounts: [{name: d, mountPath: /d}]"))?;
    agent.wait("why it waits", SOON, |agent| {
        let why = "volume disk has volumeMode Block, but is specified in volumeMounts";
        Ok(agent.print(&["events"])?.contains(why).then_some(()))
    })?;

    // The next agent finds what the pod has.
    agent.kill()?;
    agent.start()?;
    let pod = agent.wait_for_pod("writes", SOON, runs)?;
    ensure!(pod["status"]["containerStatuses"][0]["restartCount"] == 0, "{pod}");
    ends_clean(agent)?;
    ensure!(fs::read(&device.0)?.starts_with(b"kept\n"), "what was written stays");
    Ok(())
}

/// So many huge pages of 2 MiB more than there were, until this is dropped.
struct HugePages(u64);

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

impl HugePages {
    /// `None` where this machine has none, or cannot find room for them.
    fn reserve(count: u64) -> Result<Option<Self>> {
        let Ok(before) = number("nr_hugepages") else {
            not_here("this kernel has no huge pages of 2 MiB");
            return Ok(None);
        };
        let asked = fs::write(format!("{POOL}/nr_hugepages"), (before + count).to_string());
        let reserved = Self(number("nr_hugepages")?.saturating_sub(before));
        if reserved.0 < count {
            not_here(&format!("this machine gives no huge pages ({asked:?})"));
            return Ok(None);
        }
        Ok(Some(reserved))
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let left = number("nr_hugepages").unwrap_or(self.0).saturating_sub(self.0);
        let _ = fs::write(format!("{POOL}/nr_hugepages"), left.to_string());
    }
}

fn number(name: &str) -> Result<u64> {
    Ok(fs::read_to_string(format!("{POOL}/{name}"))?.trim().parse()?)
}

#[test]
fn an_empty_dir_in_huge_pages_has_the_pages_that_its_pod_asks_for() -> Result<()> {
    let Some(_reserved) = HugePages::reserve(4)? else { return Ok(()) };
    let script = "fallocate -l 4194304 /h/all && echo has two; fallocate -l 2097152 /h/more 2>&1; stat -f -c %S /h; \
                  sleep 1000000";
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: huge}}\nspec:\n  terminationGracePeriodSeconds: 1\n  volumes: \
         [{{name: h, emptyDir: {{medium: HugePages, sizeLimit: 4Mi}}}}]\n  containers:\n  - name: main\n    image: \
         busybox\n    command: [sh, -c, {script:?}]\n    volumeMounts: [{{name: h, mountPath: /h}}]\n    resources: \
         {{limits: {{hugepages-2Mi: 4Mi, memory: 64Mi}}}}\n"
    );
    let mut agent = Agent::run(&[("a.yaml", &text)])?;
    agent.wait_for_pod("huge", SOON, runs)?;
    let said = agent.wait("all that it prints", SOON, |agent| {
        let said = agent.print(&["logs", "huge"])?;
        Ok(said.contains("2097152\n").then_some(said))
    })?;
    ensure!(said.starts_with("has two\n") && said.contains("No space left on device"), "{said}");
    agent.remove("a.yaml")?;
    agent.wait("the pod's end", SOON, |agent| Ok(agent.pod("huge")?.is_none().then_some(())))?;
    ends_clean(agent)
}
