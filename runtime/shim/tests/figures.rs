//! What a pod costs. Run by hand with the shim that is shipped:
//! `LONGSHORE_SHIM=.../out/longshore-shim cargo nextest run -p shim --test figures --run-ignored only --no-capture`
#![allow(clippy::print_stderr, reason = "its output is its purpose")]

mod pod;

use std::fs;
use std::time::{Duration, Instant};

use pod::Pod;

const ROUNDS: usize = 50;

fn median(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    format!("{:?} ({:?}-{:?})", times[times.len() / 2], times[0], times[times.len() - 1])
}

/// User and system time of a process and of its children that were reaped, in microseconds.
fn cpu(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<u64> = stat.rsplit(") ").next().unwrap_or("").split(' ').map(|f| f.parse().unwrap_or(0)).collect();
    fields[11..15].iter().sum::<u64>() * 10_000
}

fn memory(pid: u32) -> String {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it runs");
    let wanted = ["Rss:", "Pss:", "Private_Clean:", "Private_Dirty:"];
    let lines = rollup.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}

#[test]
#[ignore = "measures, proves nothing"]
fn figures() {
    let shims: Vec<Duration> = (0..20)
        .map(|_| {
            let before = Instant::now();
            let pod = Pod::new();
            let took = before.elapsed();
            drop(pod);
            took
        })
        .collect();
    eprintln!("sandbox with its files: {}", median(shims));
    let mut pod = Pod::new();
    pod.watch();
    eprintln!("shim, idle: {}", memory(pod.shim_pid()));
    let plan = pod.plan("");
    let plan = shim::plan::Launch { args: vec![pod::text("/bin/true")], ..plan };
    let (mut starts, mut exits) = (Vec::new(), Vec::new());
    let before = cpu(pod.shim_pid());
    for round in 0..ROUNDS {
        let id = format!("c{round}");
        let (write, begin) = (&pod, Instant::now());
        write.start(&id, &plan);
        starts.push(begin.elapsed());
        pod.wait(&id);
        exits.push(begin.elapsed());
    }
    let each = (cpu(pod.shim_pid()) - before) / ROUNDS as u64;
    eprintln!("container start: {}; until its exit is told: {}; cpu {each} us", median(starts), median(exits));
    let pid = pod.start("web", &shim::plan::Launch { args: ["/bin/sleep", "1000"].map(pod::text).into(), ..plan });
    let exec = pod.exec_plan(pid, "");
    let exec = shim::plan::Launch { args: vec![pod::text("/bin/true")], ..exec };
    let before = cpu(pod.shim_pid());
    let execs = (0..ROUNDS).map(|round| {
        let begin = Instant::now();
        pod.exec(&format!("e{round}"), &exec, None).expect("it runs");
        begin.elapsed()
    });
    let execs = median(execs.collect());
    let each = (cpu(pod.shim_pid()) - before) / ROUNDS as u64;
    eprintln!("exec until its exit is told: {execs}; cpu {each} us");
    eprintln!("shim, after {ROUNDS} containers: {}", memory(pod.shim_pid()));
}
