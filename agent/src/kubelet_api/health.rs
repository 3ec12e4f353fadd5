//! `/healthz` and its checks, in the words of Kubernetes' own servers.

use hyper::StatusCode;

use super::answers::{Answer, text};

/// The checks, in the order in which they are listed.
pub(super) const CHECKS: [&str; 3] = ["ping", "log", "syncloop"];

/// The answer to `/healthz`, or to one check of it. `goes` is whether the loop that starts and stops pods goes round.
pub(super) fn answer(check: Option<&str>, is_verbose: bool, goes: bool) -> Answer {
    let passes = |name: &str| name != "syncloop" || goes;
    let ok = || text(StatusCode::OK, "ok");
    if let Some(name) = check {
        return match (CHECKS.contains(&name), passes(name)) {
            (false, _) => text(StatusCode::NOT_FOUND, "404 page not found\n"),
            (true, true) => ok(),
            (true, false) => failed("internal server error: the pods' loop does not answer\n".to_owned()),
        };
    }
    let line = |name: &&str| match passes(name) {
        true => format!("[+]{name} ok\n"),
        false => format!("[-]{name} failed: reason withheld\n"),
    };
    let lines: String = CHECKS.iter().map(line).collect();
    match (goes, is_verbose) {
        (true, false) => ok(),
        (true, true) => text(StatusCode::OK, format!("{lines}healthz check passed\n")),
        (false, _) => failed(format!("{lines}healthz check failed\n")),
    }
}

fn failed(words: String) -> Answer {
    text(StatusCode::INTERNAL_SERVER_ERROR, words)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    async fn shown(answer: Answer) -> String {
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 10).await.unwrap();
        format!("{status} {}\n", String::from_utf8_lossy(&body))
    }

    #[tokio::test]
    async fn a_loop_that_hangs_is_named() {
        let mut all = String::new();
        for (check, verbose, goes) in [
            (None, false, true),
            (None, true, true),
            (None, false, false),
            (Some("ping"), false, false),
            (Some("syncloop"), false, false),
            (Some("nothing"), false, true),
        ] {
            all.push_str(&shown(answer(check, verbose, goes)).await);
        }
        expect![[r#"
            200 ok
            200 [+]ping ok
            [+]log ok
            [+]syncloop ok
            healthz check passed

            500 [+]ping ok
            [+]log ok
            [-]syncloop failed: reason withheld
            healthz check failed

            200 ok
            500 internal server error: the pods' loop does not answer

            404 404 page not found

        "#]]
        .assert_eq(&all);
    }
}
