//! Alerts of a stream on their way to who is to be told.
//!
//! They are told at once, before their interval is committed. The commit waits
//! until the notices of its interval are taken, so that a process that ends
//! before tells them again when it reads the events again. A notifier that is
//! away holds one commit up, and no other until it has taken alerts again
//! ([`Outage`]).

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use insightera_core::Clock;

use super::options::{Alert, Told};
use super::program::Program;
use crate::notify::{Delivery, Notice, Outbox};

/// How long a commit waits for notifiers.
const PATIENCE: Duration = Duration::from_secs(5);

/// The alerts of the newest commit that notifiers had not taken in time.
#[derive(Debug, Default)]
pub struct Outage(Option<Delivery>);

impl Outage {
    /// Waits for the alerts of a commit, unless those of the one before have
    /// shown that it is in vain, and are not taken yet.
    pub fn wait(&mut self, own: &Delivery) {
        if own.is_empty() {
            return;
        }
        self.0.take_if(|late| late.has_succeeded());
        if self.0.is_none() {
            own.wait(PATIENCE);
        }
        if self.0.is_some() || !own.has_succeeded() {
            self.0 = Some(own.clone());
        }
    }
}

/// Who is to be told, and what is on its way to them.
pub struct Notices {
    program: Arc<Program>,
    told: Option<Told<Alert>>,
    outbox: Arc<Outbox>,
    clock: Arc<dyn Clock>,
    delivery: Delivery,
}

impl Notices {
    /// Nothing is on its way yet. `told` is who runs the stream.
    pub fn new(
        program: &Arc<Program>,
        told: Option<Told<Alert>>,
        outbox: &Arc<Outbox>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let (program, outbox, clock) = (program.clone(), outbox.clone(), clock.clone());
        Self { program, told, outbox, clock, delivery: Delivery::default() }
    }

    /// Tells of the rows of an alert.
    pub fn tell(&self, name: String, rows: RecordBatch) {
        let alert = Alert { pipeline: self.program.pipeline.name.clone(), name, rows };
        if let Some(told) = &self.told {
            told(&alert);
        }
        let plan = self.program.alerts.iter().find(|plan| plan.name == alert.name && !plan.notify.is_empty());
        if let Some(plan) = plan {
            let notice = Notice::new(&alert.pipeline, &alert.name, &alert.rows, self.clock.now_micros());
            self.outbox.tell(&plan.notify, notice, &self.delivery);
        }
    }

    /// What is on its way since this was called last.
    pub fn take(&mut self) -> Delivery {
        std::mem::take(&mut self.delivery)
    }
}
