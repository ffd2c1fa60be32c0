//! Following one switch to its end, whatever happens to the stream.
//!
//! A pump owns the connection and speaks in [`Step`]s; the loop in `switch` owns the signals. Invariants:
//! - every request carries a request id, so that sending it again joins what runs instead of repeating it;
//! - a lost stream, or one that we read too slowly, is joined again for up to [`REJOIN_WITHIN`] after the last word, then the
//!   outcome is unknown; no room to join again is no refusal of what was asked;
//! - before anything was sent, nobody answering is "unreachable", never "unknown".

use std::time::Duration;

use heirloom_proto::v1::handover_record::Outcome;
use heirloom_proto::v1::{ErrorReason, HandoverEvent, HandoverRequest, RollbackRequest};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::connect::{Client, Sidecar};
use super::failed::{Asked, Failed, is_lost};

/// How long a lost sidecar is looked for.
pub(crate) const REJOIN_WITHIN: Duration = Duration::from_secs(10);
const REJOIN_EVERY: Duration = Duration::from_millis(100);

/// What is asked of the sidecar.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Handover(HandoverRequest),
    Rollback(RollbackRequest),
}

impl Ask {
    async fn open(&self, client: &mut Client) -> Result<Streaming<HandoverEvent>, Status> {
        Ok(match self {
            Ask::Handover(request) => client.handover(request.clone()).await?.into_inner(),
            Ask::Rollback(request) => client.rollback(request.clone()).await?.into_inner(),
        })
    }
}

/// What the pump says.
#[derive(Debug)]
pub(crate) enum Step {
    /// Something happened.
    Event(Box<HandoverEvent>),
    /// The stream was lost; it is looked for.
    Lost(String),
    /// It is there again.
    Rejoined,
    /// The sidecar said no, or that the handover was aborted. The last word.
    Refused(Failed),
    /// The stream ended in order. The last word.
    End,
    /// Nobody knows. The last word.
    Gone(String),
}

/// Starts the pump. It ends when it has said its last word or nobody listens.
///
/// # Errors
/// What connecting for the first time failed with: nothing was sent.
pub(crate) async fn start(sidecar: &Sidecar, ask: Ask) -> Result<mpsc::Receiver<Step>, Failed> {
    let client = sidecar.client().await?;
    let (steps, receiver) = mpsc::channel(64);
    tokio::spawn(pump(sidecar.clone(), client, ask, steps));
    Ok(receiver)
}

async fn pump(sidecar: Sidecar, client: Client, ask: Ask, steps: mpsc::Sender<Step>) {
    let mut client = Some(client);
    // Since when it is looked for; any word of the sidecar ends the search.
    let mut lost: Option<Instant> = None;
    let mut again = false;
    loop {
        let why = match attempt(&sidecar, client.take(), &ask, &steps, &mut lost).await {
            // What was asked for is there, and goes on without us.
            Attempt::Refused(failed) if again && failed.reason == Some(ErrorReason::TableFull) => failed.message,
            Attempt::Refused(failed) => {
                let _ = steps.send(Step::Refused(failed)).await;
                return;
            }
            Attempt::Over(step) => {
                let _ = steps.send(step).await;
                return;
            }
            Attempt::Lost(why) => why,
        };
        again = true;
        if lost.is_none() {
            let _ = steps.send(Step::Lost(why.clone())).await;
        }
        if lost.get_or_insert_with(Instant::now).elapsed() >= REJOIN_WITHIN || steps.is_closed() {
            let _ = steps.send(Step::Gone(why)).await;
            return;
        }
        tokio::time::sleep(REJOIN_EVERY).await;
    }
}

enum Attempt {
    Over(Step),
    /// Refused before any word of what was asked for.
    Refused(Failed),
    Lost(String),
}

/// One connection, from the request to the end of its stream.
async fn attempt(
    sidecar: &Sidecar,
    client: Option<Client>,
    ask: &Ask,
    steps: &mpsc::Sender<Step>,
    lost: &mut Option<Instant>,
) -> Attempt {
    let mut client = match client {
        Some(client) => client,
        None => match sidecar.client().await {
            Ok(client) => client,
            Err(failed) => return Attempt::Lost(failed.found.unwrap_or(failed.message)),
        },
    };
    let mut stream = match ask.open(&mut client).await {
        Ok(stream) => stream,
        Err(status) => {
            return match ended(sidecar, &status) {
                Attempt::Over(Step::Refused(failed)) => Attempt::Refused(failed),
                other => other,
            };
        }
    };
    let mut aborted = false;
    loop {
        match stream.message().await {
            Ok(Some(event)) => {
                aborted = event.handover.as_ref().is_some_and(|record| record.outcome() == Outcome::Aborted);
                if lost.take().is_some() {
                    let _ = steps.send(Step::Rejoined).await;
                }
                if steps.send(Step::Event(Box::new(event))).await.is_err() {
                    return Attempt::Over(Step::End);
                }
            }
            Ok(None) => return Attempt::Over(Step::End),
            Err(status) if !aborted && is_lagged(&status) => return Attempt::Lost(status.message().to_owned()),
            Err(status) => return ended(sidecar, &status),
        }
    }
}

fn ended(sidecar: &Sidecar, status: &Status) -> Attempt {
    let failed = sidecar.failed(status, Asked::ToChange);
    if is_lost(status) {
        Attempt::Lost(failed.found.unwrap_or(failed.message))
    } else if is_going(status) {
        Attempt::Lost(failed.message)
    } else {
        Attempt::Over(Step::Refused(failed))
    }
}

/// We read too slowly, stopped in a shell, say: what was asked goes on, and is joined again. (Refused at once it is another
/// matter: there is no room for one more. And a handover may be aborted for the same reason.)
fn is_lagged(status: &Status) -> bool {
    heirloom_proto::Failure::from_status(status).is_some_and(|f| f.reason == ErrorReason::TableFull)
}

/// A sidecar that is being upgraded says so and comes back.
fn is_going(status: &Status) -> bool {
    heirloom_proto::Failure::from_status(status).is_some_and(|f| f.reason == ErrorReason::ShuttingDown)
}
