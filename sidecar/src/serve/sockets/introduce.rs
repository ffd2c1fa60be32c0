//! Introducing two instances of a region, so that connections move between them without the sidecar.
//!
//! The sidecar knows both, from the kernel's word at their attaching; each end of the pair goes to one of them and to nobody
//! else. If the sidecar dies in between, an end that nobody has is closed, and who asked asks again.

use std::sync::Arc;

use heirloom_proto::v1::Introduced;
use heirloom_proto::v1::socket_packet::Message;
use heirloom_region::error::{Denied, Error};

use super::Inner;

impl Inner {
    /// Gives two instances a connection of their own, or tells the one that asked why not: the other is not here, or belongs to
    /// another user, whom connections are not given to.
    pub(super) fn introduce(&mut self, id: u64, to: u64) {
        let Some((from, uid)) = self.channels.get(&id).map(|out| (out.incarnation, out.uid)) else { return };
        let other = self.channels.iter().find(|(_, out)| out.incarnation == to && to != from);
        let introduced = |incarnation, asked| Introduced { incarnation, asked, ..Introduced::default() };
        let refused = |reason: &str, message| Introduced { reason: reason.to_owned(), message, ..introduced(to, true) };
        let refusal = match other.map(|(id, out)| (*id, out.uid)) {
            None => refused("INSTANCE_NOT_FOUND", format!("instance {to:016x} has no socket channel here")),
            Some((_, found)) if found != uid => {
                tracing::warn!(from = uid, to = found, "instances of two users are not introduced: connections stay");
                let error = Error::from(Denied { uid, what: format!("send connections to uid {found}") });
                refused(error.reason(), error.to_string())
            }
            Some((other, _)) => match heirloom_proto::packet::pair() {
                Ok((here, there)) => {
                    self.send(other, Message::Introduced(introduced(from, false)), vec![Arc::new(there)]);
                    return self.send(id, Message::Introduced(introduced(to, true)), vec![Arc::new(here)]);
                }
                Err(error) => refused("IO", format!("no pair of sockets: {error}")),
            },
        };
        self.say(id, Message::Introduced(refusal));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::{Given, Letter, Sockets};
    use super::*;

    /// What was said last of an introduction, and with how many descriptors.
    fn last(letters: &mut mpsc::Receiver<Letter>) -> Option<(Introduced, usize)> {
        let mut last = None;
        while let Ok(letter) = letters.try_recv() {
            if let Some(Message::Introduced(it)) = letter.packet.message {
                last = Some((it, letter.descriptors.len()));
            }
        }
        last
    }

    #[test]
    fn instances_of_one_user_are_introduced_and_nobody_else() {
        let sockets = Sockets::new("shop", Given::here());
        let join = |incarnation, uid| {
            let (letters, queue) = mpsc::channel(16);
            (sockets.joined((incarnation, uid), letters), queue)
        };
        let ((a, mut to_a), (_, mut to_b), (_, mut to_other)) = (join(1, 1000), join(2, 1000), join(3, 1001));
        let mut ask = |to| {
            sockets.lock().introduce(a, to);
            last(&mut to_a).expect("an answer")
        };
        let (said, descriptors) = ask(2);
        assert_eq!((said.asked, descriptors, said.reason.as_str()), (true, 1, ""));
        let (said, descriptors) = last(&mut to_b).expect("the other one is told");
        assert_eq!((said.incarnation, said.asked, descriptors), (1, false, 1));

        let (said, descriptors) = ask(3);
        assert_eq!((said.reason.as_str(), descriptors), ("CALLER_DENIED", 0));
        assert!(said.message.contains("1000") && said.message.contains("1001"), "{}", said.message);
        assert!(last(&mut to_other).is_none(), "another user's instance hears nothing");

        for nobody in [1, 9] {
            assert_eq!(ask(nobody).0.reason, "INSTANCE_NOT_FOUND");
        }
    }
}
