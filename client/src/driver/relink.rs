//! Coming back after the link was lost, and what to do where there is no way back: see [`crate::control`].

use std::time::Instant;

use heirloom_proto::v1::attach_request::Hello;
use heirloom_region::instances;

use super::{Driver, Said, TICK};
use crate::dial::{DialError, Dialled, dial};
use crate::open::backoff;
use crate::role::Link;
use crate::serving::Left;

impl Driver {
    pub(super) fn lose(&mut self) {
        self.live = None;
        self.session.net.disconnect();
        self.said = Said { leave: self.said.leave, ..Said::default() };
        self.lost = Some(Instant::now());
        self.session.set_link(Link::Lost(Instant::now()));
        if self.redial.is_some() {
            tracing::info!(region = self.session.region(), "link to the sidecar lost");
            self.pauses = Box::new(backoff());
        }
        self.dial_later(|hello| hello);
    }

    /// Dials after the next pause.
    fn dial_later(&mut self, change: impl FnOnce(Hello) -> Hello) {
        let Some(redial) = &self.redial else { return };
        let (socket, hello) = (redial.socket.clone(), change(redial.hello.clone()));
        let pause = self.pauses.next().unwrap_or(TICK);
        self.dialling = Some(Box::pin(async move {
            tokio::time::sleep(pause).await;
            dial(&socket, hello).await
        }));
    }

    pub(super) fn redialled(&mut self, dialled: Result<Dialled, DialError>) {
        let looked = std::mem::take(&mut self.looking);
        match dialled {
            Ok(Dialled { welcome, live, sockets }) => {
                let uuid = self.redial.as_ref().map(|redial| redial.uuid);
                if uuid.is_some_and(|uuid| welcome.region_uid[..] != uuid[..]) {
                    return self.orphaned(&welcome.region_uid);
                }
                if looked {
                    return self.dial_later(|hello| hello); // the same region: the next attempt is a proper one again
                }
                if welcome.incarnation == self.session.process.incarnation() {
                    tracing::info!(region = self.session.region(), "attached again");
                    (self.live, self.lost) = (Some(live), None);
                    self.said.leave = None;
                    self.session.set_link(Link::Connected);
                    if let Some(sockets) = sockets {
                        self.session.net.connect(sockets);
                    }
                    return;
                }
                self.unknown();
            }
            Err(DialError::Unknown(why)) => {
                tracing::warn!(region = self.session.region(), why, "the sidecar does not know this instance");
                self.unknown();
            }
            Err(DialError::Refused(error)) => {
                tracing::warn!(region = self.session.region(), %error, "could not attach again");
                self.dial_later(|hello| hello);
            }
            Err(DialError::Absent(why)) => {
                tracing::debug!(region = self.session.region(), why, "no sidecar yet");
                self.dial_later(|hello| hello);
            }
        }
    }

    /// The sidecar gave us no way back. Our row tells whether we live; a look from outside, whether it is the same region.
    fn unknown(&mut self) {
        let process = &self.session.process;
        match instances::read(process.mapping(), process.row()) {
            Ok(Some(row)) if row.seat.incarnation == process.incarnation() => {
                self.looking = true;
                self.dial_later(as_observer);
            }
            Ok(row) => {
                let found = row.map_or_else(|| "is free".to_owned(), |row| format!("holds {}", row.name()));
                self.session.cut(format!(
                    "this instance was taken for dead: row {} of the instance table {found}, expected {}",
                    process.row(),
                    self.session.me().instance,
                ));
            }
            Err(_) => self.dial_later(|hello| hello),
        }
    }

    fn orphaned(&mut self, found: &[u8]) {
        let expected = self.session.process.mapping().uuid();
        let text = |uuid: &[u8]| uuid::Uuid::from_slice(uuid).map_or_else(|_| format!("{uuid:?}"), |u| u.to_string());
        let why = format!(
            "region {} was created anew: uuid {}, expected {}; attach anew",
            self.session.region(),
            text(found),
            text(&expected)
        );
        tracing::error!(why);
        self.session.finish(Left { owner: None, undrained: self.session.work.total(), why: Some(why) });
    }
}

/// Who looks only: the welcome's UUID is what we want to know.
fn as_observer(hello: Hello) -> Hello {
    Hello { read_only: true, resume_instance: String::new(), resume_token: Vec::new(), ..hello }
}
