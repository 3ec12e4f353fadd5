use super::*;

fn finished(world: &World) -> String {
    world.row(WorkloadKind::Job).status.clone()
}

#[test]
fn a_job_runs_so_many_at_a_time_until_enough_have_succeeded() {
    let mut world = World::new(&job("completions: 3\n  parallelism: 2"));
    world.hear();
    assert_eq!(world.names().len(), 2);
    let first = world.names()[0].clone();
    world.end(&first, End::Succeeded);
    world.hear();
    assert_eq!(world.names().len(), 3);
    for name in world.names() {
        world.end(&name, End::Succeeded);
    }
    assert_eq!((finished(&world), world.names().len()), ("Complete".into(), 3));
    world.pass(secs(100_000));
    assert_eq!(world.names().len(), 3);
    let labels = world.pod(&first).metadata.labels.clone().unwrap();
    assert_eq!(labels["job-name"], "work");
}

#[test]
fn failures_wait_longer_and_longer_and_end_the_job_at_their_limit() {
    let mut world = World::new(&job("backoffLimit: 2"));
    world.hear();
    for wait in [10, 20] {
        let name = active(&world);
        world.end(&name, End::Failed);
        assert_eq!(finished(&world), "Running");
        world.pass(secs(wait - 1));
        assert_eq!(world.row(WorkloadKind::Job).active, 0);
        world.pass(secs(1));
        assert_eq!(world.row(WorkloadKind::Job).active, 1);
        world.hear();
    }
    let name = active(&world);
    world.end(&name, End::Failed);
    assert_eq!(finished(&world), "Failed: BackoffLimitExceeded");
    // What failed is there to be looked at.
    assert_eq!(world.names().len(), 3);
}

fn active(world: &World) -> String {
    let remembered = world.memory.values().next().unwrap();
    remembered.active().next().unwrap().1.name.clone()
}

#[test]
fn restarts_inside_of_a_pod_count_as_failures() {
    let mut world = World::new(&job("backoffLimit: 2").replace("Never", "OnFailure"));
    world.hear();
    let uid = world.uid(&active(&world));
    world.set(&uid, |seen| seen.restarts = 2);
    assert_eq!(finished(&world), "Running");
    world.set(&uid, |seen| seen.restarts = 3);
    assert_eq!((finished(&world), world.names().len()), ("Failed: BackoffLimitExceeded".into(), 0));
}

#[test]
fn every_index_succeeds_once() {
    let mut world = World::new(&job("completions: 3\n  parallelism: 2\n  completionMode: Indexed"));
    world.hear();
    let names = world.names();
    assert!(names[0].starts_with("work-0-") && names[1].starts_with("work-1-"), "{names:?}");
    let pod = world.pod(&names[1]);
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("work-1"));
    let env = spec.containers[0].env.as_ref().unwrap();
    assert_eq!((env[0].name.as_str(), env[0].value.as_deref()), ("JOB_COMPLETION_INDEX", Some("1")));
    assert_eq!(pod.metadata.annotations.as_ref().unwrap()["batch.kubernetes.io/job-completion-index"], "1");
    world.end(&names[0], End::Failed);
    world.end(&names[1], End::Succeeded);
    world.pass(secs(10));
    let again: Vec<_> = world.names().into_iter().filter(|name| !names.contains(name)).collect();
    assert!(again[0].starts_with("work-0-") && again[1].starts_with("work-2-"), "{again:?}");
    world.hear();
    world.end(&again[0], End::Succeeded);
    world.end(&again[1], End::Succeeded);
    assert_eq!(finished(&world), "Complete");
}

#[test]
fn a_deadline_ends_it_and_its_time_to_live_takes_it_away_for_good() {
    let text = job("activeDeadlineSeconds: 30\n  ttlSecondsAfterFinished: 60");
    let mut world = World::new(&text);
    world.hear();
    world.pass(secs(29));
    assert_eq!(finished(&world), "Running");
    assert_eq!(world.wake, Some("2026-01-01T00:00:30Z".parse().unwrap()));
    world.pass(secs(1));
    assert_eq!((finished(&world), world.names().len()), ("Failed: DeadlineExceeded".into(), 0));
    world.pass(secs(60));
    assert_eq!(world.rows, []);
    world.edit(&text);
    world.pass(secs(60));
    assert_eq!((world.rows.len(), world.names().len()), (0, 0));
    // Another Job under the same name is another Job.
    world.edit(&text.replace("i:1", "i:2"));
    assert_eq!(world.names().len(), 1);
}

#[test]
fn a_suspended_job_waits_and_goes_on() {
    let mut world = World::new(&job("completions: 2\n  suspend: true"));
    assert_eq!((finished(&world), world.names().len()), ("Suspended".into(), 0));
    world.edit(&job("completions: 2"));
    world.hear();
    let name = active(&world);
    world.end(&name, End::Succeeded);
    world.edit(&job("completions: 2\n  suspend: true"));
    world.hear();
    assert_eq!(world.row(WorkloadKind::Job).active, 0);
    world.edit(&job("completions: 2"));
    world.hear();
    let name = active(&world);
    world.end(&name, End::Succeeded);
    assert_eq!(finished(&world), "Complete");
}

#[test]
fn a_queue_ends_with_its_first_success_and_the_last_of_its_pods() {
    let mut world = World::new(&job("parallelism: 3"));
    world.hear();
    let names = world.names();
    world.end(&names[0], End::Succeeded);
    assert_eq!((finished(&world), world.row(WorkloadKind::Job).active), ("Running".into(), 2));
    world.end(&names[1], End::Failed);
    world.pass(secs(1_000));
    assert_eq!(world.row(WorkloadKind::Job).active, 1);
    world.end(&names[2], End::Succeeded);
    assert_eq!(finished(&world), "Complete");
}

fn cron(more: &str) -> String {
    format!(
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: tick}}\nspec:\n  schedule: '*/5 * * * *'\n  timeZone: UTC\n  {more}\n  \
         jobTemplate:\n    spec:\n      template:\n        spec:\n          restartPolicy: Never\n          \
         containers: [{{name: c, image: 'i:1'}}]\n"
    )
}

fn jobs(world: &World) -> Vec<String> {
    let jobs = world.rows.iter().filter(|row| row.kind == WorkloadKind::Job);
    jobs.map(|row| format!("{} {}", row.name.name, row.status)).collect()
}

#[test]
fn a_cron_job_makes_jobs_by_the_clock_and_keeps_the_newest() {
    let mut world = World::new(&cron("successfulJobsHistoryLimit: 2"));
    assert_eq!((jobs(&world).len(), world.wake), (0, Some("2026-01-01T00:05:00Z".parse().unwrap())));
    for _ in 0..4 {
        world.pass(secs(300));
        world.hear();
        for name in world.names() {
            world.end(&name, End::Succeeded);
        }
    }
    assert_eq!(jobs(&world), ["tick-29453775 Complete", "tick-29453780 Complete"]);
    assert_eq!(world.row(WorkloadKind::CronJob).status, "Waiting");
}

#[test]
fn what_was_missed_while_nobody_looked_is_made_up_for_once() {
    let mut world = World::new(&cron(""));
    world.pass(secs(3_600));
    assert_eq!(jobs(&world), ["tick-29453820 Running"]);
    let mut world = World::new(&cron("startingDeadlineSeconds: 60"));
    world.pass(secs(3_600 + 61));
    assert_eq!(jobs(&world), [""; 0]);
    world.pass(secs(300 - 61));
    assert_eq!(jobs(&world), ["tick-29453825 Running"]);
}

#[test]
fn the_three_policies_for_a_job_that_still_runs() {
    for (policy, want) in [
        ("Allow", vec!["tick-29453765 Running", "tick-29453770 Running"]),
        ("Forbid", vec!["tick-29453765 Running"]),
        ("Replace", vec!["tick-29453770 Running"]),
    ] {
        let mut world = World::new(&cron(&format!("concurrencyPolicy: {policy}")));
        world.pass(secs(300));
        world.hear();
        world.pass(secs(300));
        world.hear();
        assert_eq!(jobs(&world), want, "{policy}");
    }
    let mut world = World::new(&cron("concurrencyPolicy: Forbid"));
    world.pass(secs(300));
    world.hear();
    world.pass(secs(420));
    let name = world.names()[0].clone();
    world.end(&name, End::Succeeded);
    // What had to wait begins when it may.
    assert_eq!(jobs(&world), ["tick-29453765 Complete", "tick-29453770 Running"]);
}
