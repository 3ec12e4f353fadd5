//! Whether somebody else wrote to the tables of one address family, as far as the kernel tells without listing them.
//!
//! nftables counts its commits: more than our own are somebody else's, and in nftables mode the kernel says whether they were
//! about our table. The older tables tell how large they are, at once, and what they hold when they are read, which is done
//! as often as it is cheap.

use std::time::Duration;

use netfilter::Family;
use netfilter::apply::{Backend, Fingerprint, Notices, Watch};
use tokio::time::Instant;

use super::settings::Mode;

/// The older tables are read this often at most: what is replaced there is noticed within a second.
const READ: Duration = Duration::from_millis(600);
/// Reading them may use this part of the time at most: a fiftieth. 5,000 Services are 70,000 entries of 24 MB, so that there
/// it is done every few seconds.
const SHARE: u32 = 50;

/// What the rules looked like when we last looked.
pub(super) struct Watched {
    /// Without a socket to ask, changes from outside stay unseen until the next full look.
    watch: Option<Watch>,
    notices: Option<Notices>,
    last: Option<Fingerprint>,
    /// How many commits this agent had made then.
    own: u32,
    /// Nobody counts: the tables have to be read.
    is_uncounted: bool,
    /// What the older tables held.
    contents: Option<u64>,
    /// When they may be read again.
    next: Instant,
    /// Somebody may have written in between.
    is_suspect: bool,
    /// Somebody wrote to our own table of nftables.
    is_touched: bool,
}

impl Watched {
    /// Nothing is suspect yet.
    pub(super) fn open(family: Family, backend: Backend, mode: Mode) -> Self {
        Self {
            watch: Watch::open(family, backend).ok(),
            notices: (mode == Mode::Nftables).then(|| Notices::open(family).ok()).flatten(),
            last: None,
            own: 0,
            is_uncounted: backend == Backend::Legacy,
            contents: None,
            next: Instant::now(),
            is_suspect: false,
            is_touched: false,
        }
    }

    /// Somebody may have written.
    pub(super) fn is_suspect(&self) -> bool {
        self.is_suspect
    }

    /// Everything is to be looked at.
    pub(super) fn suspect(&mut self) {
        self.is_suspect = true;
    }

    /// Whether somebody has written since the last look, where this agent has made `own` commits. A system call or two.
    /// `is_sure`: there are rules of ours.
    pub(super) fn look(&mut self, own: u32, is_sure: bool) {
        let now = self.fingerprint();
        if let Some(notices) = &self.notices {
            // Commits to other tables are nobody's business here; our own were taken note of by `settle`.
            self.is_touched |= notices.take();
            self.is_suspect |= self.is_touched;
        } else {
            self.is_suspect |= match (self.last, now) {
                (Some(last), Some(now)) => match now.commits_since(last) {
                    Some(commits) => commits != own.wrapping_sub(self.own),
                    None => now != last,
                },
                (last, now) => last.is_some() != now.is_some() && is_sure,
            };
        }
        (self.last, self.own) = (now, own);
    }

    /// Whether the tables are to be read.
    pub(super) fn is_read_due(&self, now: Instant) -> bool {
        self.is_uncounted && now >= self.next
    }

    /// Reads what the older tables hold. Blocks.
    pub(super) fn read(&mut self, now: Instant) {
        let read = self.contents();
        self.next = now + READ.max(now.elapsed() * SHARE);
        if read.is_some() && read != self.contents {
            (self.contents, self.is_suspect) = (read, true);
        }
    }

    /// How many commits were made since the last look; `None` where nobody counts.
    pub(super) fn commits(&self) -> Option<u32> {
        self.fingerprint()?.commits_since(self.last?)
    }

    /// After our own writing. With more commits than `ours` somebody wrote at the same time.
    pub(super) fn settle(&mut self, own: u32, ours: Option<u32>) {
        let others = self.commits().is_some_and(|commits| ours.is_some() && Some(commits) != ours);
        self.is_suspect |= ours.is_none() || others;
        // What is told of now is what we wrote, and what others wrote with us.
        if let Some(notices) = &self.notices {
            self.is_touched |= notices.take() && others;
        }
        (self.last, self.own, self.contents) = (self.fingerprint(), own, self.contents());
    }

    /// Everything is about to be looked at. Says whether somebody is known to have written to our table.
    pub(super) fn begin_repair(&mut self) -> bool {
        self.is_suspect = false;
        self.is_touched
    }

    /// Everything has been written again.
    pub(super) fn repaired(&mut self) {
        self.is_touched = false;
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        self.watch.as_ref()?.fingerprint().ok()
    }

    fn contents(&self) -> Option<u64> {
        self.watch.as_ref()?.contents().ok()?
    }
}
