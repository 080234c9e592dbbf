//! The issuer's side of a join: one request, one answer, on a connection of its own.
//!
//! Whoever connects is nobody yet, so sizes, time and the number of exchanges are bounded before anything is
//! read, and one path leads to the answer whether or not the token exists.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use quinn::Connection;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Ourselves,
    decide::{Asked, Outcome, decide, unproven},
    exporter, length_prefixed, read_bytes,
};
use crate::{
    link::{
        codes::Close,
        stream::{Reader, StreamError, Writer},
    },
    model::{code::Code, limits},
    store::Store,
};

/// Answers join requests; cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::peer) struct Joins {
    ours: Arc<Ourselves>,
    store: Store,
    in_flight: Arc<Semaphore>,
    /// Those that have not sent their request yet, in the order they came.
    idle: Arc<Mutex<VecDeque<Idle>>>,
}

/// A connection that has said nothing yet.
#[derive(Debug, Clone)]
struct Idle(Arc<CancellationToken>);

impl Joins {
    /// Redeems the tokens of this store.
    #[must_use]
    pub(in crate::peer) fn new(ours: Arc<Ourselves>, store: Store) -> Self {
        Self {
            ours,
            store,
            in_flight: Arc::new(Semaphore::new(limits::JOINS_IN_FLIGHT_MAX)),
            idle: Arc::default(),
        }
    }

    /// Serves one connection to its end, and says in the log what came of it.
    pub(in crate::peer) async fn serve(self, connection: Connection) {
        let address = connection.remote_address();
        let Some(_permit) = self.permit().await else {
            tracing::warn!(%address, "a join was put off: too many at once");
            return connection.close(Close::Shutdown.code(), b"too many joins at once");
        };
        let idle = Idle(Arc::default());
        self.idle().push_back(idle.clone());
        let exchanged = timeout(self.ours.limits.join_timeout, self.exchange(&connection, &idle)).await;
        self.speaks(&idle);
        match exchanged {
            Ok(Ok(())) => connection.close(Close::JoinDone.code(), Close::JoinDone.phrase().as_bytes()),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "a join was not finished");
                connection.close(Close::Protocol.code(), Close::Protocol.phrase().as_bytes());
            }
            Err(_) => {
                tracing::debug!(%address, "a join took too long");
                connection.close(Close::Protocol.code(), b"join took too long");
            }
        }
    }

    /// A place among those that are served. When all are taken, whoever has said nothing for longest gives
    /// way: who means to join speaks at once, so silence never keeps anybody out.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.in_flight.clone().try_acquire_owned() {
            return Some(permit);
        }
        let silent = self.idle().pop_front()?;
        silent.0.cancel();
        timeout(self.ours.limits.header_timeout, self.in_flight.clone().acquire_owned()).await.ok()?.ok()
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection is idle no more.
    fn speaks(&self, idle: &Idle) {
        self.idle().retain(|waiting| !Arc::ptr_eq(&waiting.0, &idle.0));
    }

    async fn exchange(&self, connection: &Connection, idle: &Idle) -> Result<(), StreamError> {
        let accepted = idle.0.run_until_cancelled(connection.accept_bi()).await;
        let Some(accepted) = accepted else { return Err(StreamError::Truncated) };
        let (send, receive) = accepted.map_err(|lost| StreamError::Read(lost.into()))?;
        self.speaks(idle);
        let (mut writer, mut reader) = (Writer::new(send), Reader::new(receive));
        let asked = match read_bytes(&mut reader, self.ours.limits.join_message).await {
            Ok(bytes) => Asked::read(&bytes, |token| exporter(connection, token)),
            Err(StreamError::TooLarge(_) | StreamError::Malformed(_)) => None,
            Err(error) => return Err(error),
        };
        let (answer, outcome) = match asked {
            Some(asked) => self.decide(asked).await,
            None => unproven(None),
        };
        note(&outcome, connection);
        writer.write_chunk(length_prefixed(&answer)).await?;
        writer.finish();
        writer.stopped().await;
        Ok(())
    }

    async fn decide(&self, asked: Asked) -> (Vec<u8>, Outcome) {
        let ours = self.ours.clone();
        let decided = self.store.transact(move |state, now| Ok(decide(&ours, state, now, &asked))).await;
        decided.unwrap_or_else(|error| {
            // Nothing was changed, so the token is as good as before.
            tracing::error!(%error, "a join could not be stored");
            unproven(None)
        })
    }
}

fn note(outcome: &Outcome, connection: &Connection) {
    let address = connection.remote_address();
    match outcome {
        Outcome::Joined { cluster, pending_approval } => {
            tracing::info!(%address, peer = %cluster, pending_approval, "a cluster joined");
        }
        Outcome::Repeated { cluster } => {
            tracing::info!(%address, peer = %cluster, "a cluster asked for its answer again");
        }
        Outcome::Unproven { token } => {
            let token = token.map(|token| token.to_string()).unwrap_or_default();
            tracing::warn!(%address, token, "a join was refused: no proof of a token of ours");
        }
        Outcome::Denied { token, cluster, problem } if problem.code == Code::TOKEN_REDEEMED => {
            tracing::warn!(
                %address, %token, peer = %cluster, reason = %problem.message,
                "a token was used twice; if you do not know both clusters, it was stolen"
            );
        }
        Outcome::Denied { token, cluster, problem } => {
            tracing::warn!(
                %address, %token, peer = %cluster, code = %problem.code, reason = %problem.message,
                "a join was refused"
            );
        }
    }
}
