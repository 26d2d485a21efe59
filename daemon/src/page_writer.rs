//! Keeps the page of counters fresh.

use std::path::Path;
use std::time::{Duration, Instant};

use super::page::{self, CountersPage};
use super::services::Services;

/// How old the page of counters gets.
const PAGE_INTERVAL: Duration = Duration::from_secs(1);

/// Writes the page of counters from time to time.
pub(crate) struct PageWriter {
    page: Option<CountersPage>,
    next: Instant,
}

impl PageWriter {
    pub(crate) fn new(socket: &Path, services: &Services) -> Self {
        let name = page::name_for(socket);
        let page = match CountersPage::create(&name, &services.all_counters()) {
            Ok(page) => {
                services.name_page(&name);
                Some(page)
            }
            Err(error) => {
                tracing::warn!(%error, "there is no page of counters");
                None
            }
        };
        Self {
            page,
            next: Instant::now() + PAGE_INTERVAL,
        }
    }

    pub(crate) fn timeout(&self, now: Instant) -> Option<Duration> {
        self.page
            .as_ref()
            .map(|_| self.next.saturating_duration_since(now))
    }

    pub(crate) fn write(&mut self, services: &Services, now: Instant) {
        let Some(page) = &self.page else { return };
        if services.take_page_wanted() || now >= self.next {
            page.write(&services.all_counters());
            self.next = now + PAGE_INTERVAL;
        }
    }
}
