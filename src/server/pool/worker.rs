//! The threads `flint-work-N`: they handle requests that may block on the disk or a lock, make the next part of long
//! replies, and on a Unix socket finish replies to slow clients, and send refusals for which no other thread was free.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::super::context::Context;
use super::super::vitals::contain;
use super::super::work::Job;
use super::handle::{self, Role};
use super::passing::{let_go_of_all, pass_on};

/// Until the queue says that it is the end.
pub fn work(context: &Arc<Context>, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        if matches!(job, Job::End) {
            return;
        }
        contain(|| match job {
            Job::Request(exchange) => pass_on(context, handle::handle(context, exchange, Role::Worker)),
            Job::More(mut sending) => {
                sending.make_more();
                pass_on(context, handle::send(sending));
            }
            Job::Finish(sending) => sending.finish(),
            Job::Refuse(exchange, bytes) => exchange.send_and_keep(&bytes),
            Job::LetGo => let_go_of_all(context),
            Job::End => {}
        });
    }
}
