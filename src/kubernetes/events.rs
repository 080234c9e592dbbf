//! Events beside the objects they are about, for `kubectl describe`. Nothing waits for them, and one that
//! cannot be written is only missed.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::time::timeout;

use super::{MANAGER, seen::Key};
use crate::model::limits;

/// What an Event is about.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) key: Key,
    pub(super) uid: String,
}

/// Writes Events; cheap to clone.
#[derive(Clone)]
pub(super) struct Events(Recorder);

impl Events {
    pub(super) fn new(client: Client, identity: &str) -> Self {
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(identity.to_owned()) };
        Self(Recorder::new(client, reporter))
    }

    /// Tells something; `good` is the type `Normal`, else `Warning`.
    pub(super) async fn tell(&self, subject: &Subject, good: bool, reason: &str, note: &str) {
        let reference = ObjectReference {
            api_version: Some(subject.api_version.to_owned()),
            kind: Some(subject.kind.to_owned()),
            name: Some(subject.key.name.clone()),
            namespace: Some(subject.key.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            uid: Some(subject.uid.clone()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: if good { EventType::Normal } else { EventType::Warning },
            reason: reason.to_owned(),
            note: Some(note.chars().take(limits::API_EVENT_NOTE_MAX).collect()),
            action: reason.to_owned(),
            secondary: None,
        };
        match timeout(limits::API_SERVER_TIMEOUT, self.0.publish(&event, &reference)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, reason, "an Event was not written"),
            Err(_) => tracing::debug!(reason, "an Event was not written in time"),
        }
    }
}
