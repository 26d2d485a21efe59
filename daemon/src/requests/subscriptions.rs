//! Subscriptions to events on the control socket.

use agentfs_proto::message::{Done, EventsSubscribe};

use crate::base::refusal::Refusal;
use crate::requests::open_session::OpenSession;
use crate::requests::watches::cleaned;
use crate::shared::broadcasts::Subscription;
use crate::shared::services::Services;

impl OpenSession {
    pub(super) fn subscribe(
        &mut self,
        request: &EventsSubscribe,
        services: &Services,
    ) -> Result<Done, Refusal> {
        let limit = services.limits().subscriptions;
        if self.subscriptions >= limit {
            let text = format!("the session has its {limit} subscriptions; end some");
            return Err(Refusal::limit(text));
        }
        let mut path = cleaned(&request.path);
        if path == b"/" {
            path.clear();
        }
        self.last_subscription += 1;
        self.subscriptions += 1;
        let (branch, activity) = (self.public.branch(), request.activity);
        let subscription = Subscription {
            branch,
            path,
            activity,
        };
        services
            .broadcasts()
            .subscribe(self.public.id(), self.last_subscription, subscription);
        Ok(Done {
            value: self.last_subscription,
        })
    }

    pub(super) fn unsubscribe(
        &mut self,
        number: u64,
        services: &Services,
    ) -> Result<Done, Refusal> {
        let (branch, id) = (self.public.branch(), self.public.id());
        if !services.broadcasts().unsubscribe(branch, id, number) {
            let text = format!("the session has no subscription {number}");
            return Err(Refusal::not_found(text));
        }
        self.subscriptions -= 1;
        Ok(Done { value: 0 })
    }
}
