//! What a queue watches, for people.

use agentfs_core::Branch;
use agentfs_core::id::SessionId;
use agentfs_engine::service::WatchError;
use agentfs_engine::{QueueId, WatchReport, WatchTarget};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{WatchInfo, WatchList, WatchesListed};
use agentfs_proto::ssz::Ssz as _;

use crate::base::public_session::PublicSession;
use crate::base::refusal::Refusal;
use crate::shared::services::Services;

/// Watches that are copied out of a queue at once: it is locked for as long.
const WATCHES_PER_PAGE: usize = 256;

/// Bytes after which a page is full. With one watch more, of as many bytes, it fits a frame.
const PAGE: usize = 24 * 1024;

/// One page. A bound session sees its own.
pub(crate) fn list(
    request: &WatchList,
    of: &PublicSession,
    services: &Services,
) -> Result<WatchesListed, Refusal> {
    let session = SessionId(request.session);
    if of.is_bound() && session != of.id() {
        return Err(WatchError::NoSession(session).into());
    }
    services.registrations().look(session);
    let queue = services.watches().queue(session, QueueId(request.queue))?;
    let branch = services.core().branch(queue.branch)?;
    let mut page = WatchesListed {
        watches: Vec::new(),
        next: request.after,
    };
    let mut bytes = 0;
    for (behind, watch) in queue.watches_from(request.after, WATCHES_PER_PAGE) {
        let info = info(&watch, &branch);
        bytes += info.ssz_len();
        page.watches.push(info);
        page.next = behind;
        if bytes > PAGE {
            break;
        }
    }
    Ok(page)
}

fn info(watch: &WatchReport, branch: &Branch) -> WatchInfo {
    let (node, paths): (_, Vec<Bytes>) = match &watch.target {
        WatchTarget::Node(node) => {
            let path = branch.path_of(*node);
            (node.0, path.iter().map(|it| it.as_path().into()).collect())
        }
        WatchTarget::Trees(trees) => {
            let tops = trees.iter().map(|top| match &**top {
                [] => Bytes::from("/"),
                path => Bytes::from(path),
            });
            (0, tops.collect())
        }
    };
    WatchInfo {
        watch: watch.id.0,
        interest: watch.interest,
        node,
        paths: as_fit(paths),
    }
}

/// The first paths, as many as fit a page.
fn as_fit(mut paths: Vec<Bytes>) -> Vec<Bytes> {
    let mut bytes = 0;
    let fits = paths.iter().take_while(|path| {
        // With its offset.
        bytes += path.ssz_len() + 4;
        bytes <= PAGE
    });
    let fits = fits.count();
    paths.truncate(fits);
    paths
}
