//! One instance's channel: lives as long as its Attach stream, on a task of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use heirloom_proto::packet::{self, Post};
use heirloom_proto::v1::SocketPacket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{LETTERS_MAX, Letter, Sockets};

/// Ends the channel when dropped.
pub(crate) struct Channel {
    task: JoinHandle<()>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Says that the channel is gone, whatever ended its task.
struct Joined {
    sockets: Arc<Sockets>,
    id: u64,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.sockets.parted(self.id);
    }
}

impl Channel {
    /// A new channel for an instance, by incarnation and uid, and the end that it gets.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(sockets: Arc<Sockets>, who: (u64, u32)) -> io::Result<(Channel, OwnedFd)> {
        let (ours, theirs) = packet::pair()?;
        let post = Post::new(ours)?;
        let (letters, queue) = mpsc::channel(LETTERS_MAX);
        let task = tokio::spawn(async move {
            let id = sockets.joined(who, letters);
            let joined = Joined { sockets, id };
            run(&post, &joined, queue).await;
        });
        Ok((Channel { task }, theirs))
    }
}

async fn run(post: &Post, joined: &Joined, mut queue: mpsc::Receiver<Letter>) {
    let hearing = async {
        let mut scratch = Vec::new();
        loop {
            match post.receive::<SocketPacket>(&mut scratch).await {
                Ok(Some(packet)) => joined.sockets.hear(joined.id, packet),
                Ok(None) => return,
                Err(error) => return tracing::warn!(%error, "an instance's socket channel is cut"),
            }
        }
    };
    let saying = async {
        while let Some(Letter { packet, descriptors }) = queue.recv().await {
            let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            if let Err(error) = post.send(&packet, &descriptors).await {
                return tracing::debug!(%error, "an instance's socket channel ended");
            }
        }
    };
    tokio::select! {
        () = hearing => {}
        () = saying => {}
    }
}
