//! Joins the parts of the agent and owns their tasks.
//!
//! ```text
//! Node::build(Config, Arc<dyn Runtime>, watch::Receiver<Arc<Desired>>, Recorder) -> Result<Node, NodeError>
//!     // takes the lock (a second agent is told the first one's pid), adopts what runs, starts all tasks
//! node.handle() -> Handle                     // Clone; for the command line and the agent's socket
//! node.stop().await                           // the tasks end, the pods go on
//!
//! handle.views: PodViews                      // every pod with its status, whole, on every change
//! handle.recorder: Recorder                   // events
//! handle.runtime: Arc<dyn Runtime>            // logs, exec, stats
//! handle.config: Arc<Config>
//! handle.images: Images                       // pull(reference, credentials from the node) with the agent's limits
//! handle.stop_pod(&ObjectName).await -> Result<(), NoSuchPod>   // returns when nothing of it is left
//! handle.stop_all().await                     // every pod with its grace period, then everything it had; final
//! ```
//!
//! `node::facts` checks the machine before anything is changed: `Facts::probe(&Config) -> Facts`,
//! `problems(&Facts) -> Vec<Problem>` (each says what is missing and how to get it).
