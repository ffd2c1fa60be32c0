//! What a worker can be told.

use std::thread::JoinHandle;
use std::time::Duration;

use heirloom_client::error::Misuse;
use heirloom_client::{Attachment, Cell, Error, Hooks, Left, Region, Role, Term, Veto, WriteError, observe, wait};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::busy::{Busy, Ledger};
use super::sockets::{self, Sockets};
use super::{Outcome, Trouble, feed};
use crate::sys::{ask_in_forked_child, fork_idle_child};

/// One attached instance.
pub(super) struct Worker {
    region: Region,
    attachment: Option<Attachment>,
    hooks: [Option<Misbehaviour>; 2],
    serving: Option<Serving>,
    busy: Busy,
    kept: Option<Term>,
    /// How long it says before that it leaves.
    notice: Option<Duration>,
    sockets: Sockets,
}

/// The thread that serves terms, and how it is told to leave.
struct Serving {
    leave: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<Left, Error>>,
}

/// What a hook does instead of its work.
#[derive(Clone, Copy)]
enum Misbehaviour {
    Nothing,
    Veto,
    Hang,
    Die,
}

impl Misbehaviour {
    async fn happen(self) -> Result<(), Veto> {
        match self {
            Misbehaviour::Nothing => Ok(()),
            Misbehaviour::Veto => Err(Veto("told to refuse".into())),
            Misbehaviour::Hang => std::future::pending().await,
            Misbehaviour::Die => std::process::abort(),
        }
    }
}

fn number(word: &str) -> Result<u64, Trouble> {
    word.parse().map_err(|_| Trouble::usage(format!("expected a number, found {word:?}")))
}

impl Worker {
    pub(super) fn new(attachment: Attachment) -> Self {
        let region = attachment.region().clone();
        Worker {
            busy: Busy::new(region.clone()),
            region,
            attachment: Some(attachment),
            hooks: [None, None],
            serving: None,
            kept: None,
            notice: None,
            sockets: Sockets::default(),
        }
    }

    /// The first line: who this is.
    pub(super) fn introduction(&self) -> Value {
        json!({ "region": self.region.name(), "instance": self.region.me().instance, "version": self.region.me().version })
    }

    pub(super) fn obey(&mut self, words: &[&str]) -> Outcome {
        match *words {
            ["notice", ms] => {
                self.notice = Some(Duration::from_millis(number(ms)?));
                Ok(Value::Null)
            }
            ["hook", hook, how] => self.hook(hook, how),
            ["ready"] => self.ready(true),
            ["ready", "not"] => self.ready(false),
            ["role"] => Ok(json!(match self.region.role() {
                Role::Standby { .. } => "standby",
                Role::Owner(_) => "owner",
                Role::Draining(_) => "draining",
                _ => "left",
            })),
            ["generation"] => Ok(json!(self.region.generation().get())),
            ["open", kind, name] => self.open(kind, name, None),
            ["open", kind, name, buckets] => self.open(kind, name, Some(buckets)),
            ["inc", name, n] => Ok(json!(self.region.counter(name).open()?.add(number(n)?))),
            ["share", name, n] => {
                let n = n.parse().map_err(|_| Trouble::usage("expected a whole number"))?;
                Ok(json!(self.region.up_down_gauge(name).open()?.add(n)))
            }
            ["observe", name, n] => Ok(json!(self.region.histogram(name).open()?.observe(number(n)? as f64))),
            ["total", name] => Ok(json!(self.region.counter(name).open()?.total())),
            ["gauge", name, n] => {
                let gauge = self.region.gauge(name).open()?;
                Ok(json!(gauge.set(&self.region.term()?, number(n)? as f64)?))
            }
            ["blob", name, limit, len] => self.blob(name, number(limit)?, number(len)?),
            ["write", name] => {
                Ok(json!(self.busy.ledger(name)?.update(&self.region.term()?, |l: &mut Ledger| l.note("write"))?))
            }
            ["keep"] => {
                self.kept = Some(self.region.term()?);
                Ok(Value::Null)
            }
            ["write-kept", name] => {
                let term = self.kept.as_ref().ok_or_else(|| Trouble::usage("no term is kept"))?;
                Ok(json!(self.busy.ledger(name)?.update(term, |l: &mut Ledger| l.note("write"))?))
            }
            ["read", name] => Ok(json!(self.busy.ledger(name)?.load()?)),
            ["count", name, threads] => Ok(json!(self.busy.count(name, number(threads)?)?)),
            ["churn", name] => Ok(json!(self.busy.churn(name)?)),
            ["listen", name, address, n] => {
                let n = usize::try_from(number(n)?).map_err(|e| Trouble::usage(e.to_string()))?;
                self.sockets.listen(&self.region, name, address, n)
            }
            ["datagrams", name, address] => self.sockets.datagrams(&self.region, name, address),
            ["answer", name] => self.sockets.answer(&self.region, name),
            ["hold", kind, n, why] => self.busy.hold(kind, number(n)?, why),
            ["release", kind] => self.busy.release(kind),
            ["traffic"] => Ok(json!(self.region.takes_traffic())),
            ["withdraw"] => self.withdraw(),
            ["room", more] => sockets::room(number(more)?),
            ["append", series, n, from] => feed::append(&self.region, number(series)?, number(n)?, number(from)?),
            ["retain", time, now] => feed::retain(&self.region, number(time)?, number(now)?),
            ["feed", series] => {
                self.busy.feed(number(series)?);
                Ok(Value::Null)
            }
            ["stop"] => Ok(self.busy.stop()),
            ["fork"] => Ok(json!(fork_idle_child().map_err(|e| Trouble::usage(e.to_string()))?)),
            ["fork-write", name] => self.fork_write(name),
            ["look", region, name] => {
                let observer = wait(observe(region))?;
                let seen = observer.roles().current();
                let ledger = observer.cell::<Ledger>(name, 1)?;
                Ok(
                    json!({ "owner": seen.owner.map(|o| o.version), "generation": seen.generation.get(), "ledger": ledger }),
                )
            }
            ["leave"] => self.leave(),
            _ => Err(Trouble::usage(format!("unknown command {words:?}"))),
        }
    }

    fn hook(&mut self, hook: &str, how: &str) -> Outcome {
        let how = match how {
            "nothing" => Misbehaviour::Nothing,
            "veto" => Misbehaviour::Veto,
            "hang" => Misbehaviour::Hang,
            "die" => Misbehaviour::Die,
            _ => return Err(Trouble::usage("expected nothing, veto, hang or die")),
        };
        match hook {
            "prepare" => self.hooks[0] = Some(how),
            "flush" => self.hooks[1] = Some(how),
            _ => return Err(Trouble::usage("expected prepare or flush")),
        }
        Ok(Value::Null)
    }

    fn ready(&mut self, ready: bool) -> Outcome {
        let attachment = self.attachment.take().ok_or_else(|| Trouble::usage("ready already"))?;
        let mut hooks = Hooks::new();
        let [prepare, flush] = self.hooks;
        if let Some(how) = prepare {
            hooks = hooks.prepare(move |_| how.happen());
        }
        if let Some(how) = flush {
            hooks = hooks.flush(move |_| how.happen());
        }
        let serving = wait(attachment.ready(hooks))?;
        serving.set_ready(ready);
        let (leave, told) = oneshot::channel();
        let told = async {
            told.await.ok();
        };
        match self.notice {
            Some(notice) => serving.leave_when_noticed(told, notice),
            None => serving.leave_when(told),
        }
        let served = std::thread::spawn(move || {
            wait(serving.run(|term| async move {
                term.ended().await;
                Ok::<(), Error>(())
            }))
        });
        self.serving = Some(Serving { leave: Some(leave), served });
        Ok(Value::Null)
    }

    fn open(&self, kind: &str, name: &str, buckets: Option<&str>) -> Outcome {
        match kind {
            "counter" => drop(self.region.counter(name).open()?),
            "updown" => drop(self.region.up_down_gauge(name).open()?),
            "gauge" => drop(self.region.gauge(name).open()?),
            "histogram" => {
                let mut histogram = self.region.histogram(name);
                if let Some(buckets) = buckets {
                    let bounds: Vec<f64> = buckets.split(',').filter_map(|b| b.parse().ok()).collect();
                    histogram = histogram.buckets(&bounds);
                }
                drop(histogram.open()?);
            }
            _ => return Err(Trouble::usage("expected counter, updown, gauge or histogram")),
        }
        Ok(Value::Null)
    }

    fn blob(&self, name: &str, limit: u64, len: u64) -> Outcome {
        let cell: Cell<Vec<u8>> = self.region.cell(name).bytes_max(limit).open()?;
        let bytes = vec![0xA5; usize::try_from(len).map_err(|e| Trouble::usage(e.to_string()))?];
        Ok(json!(cell.set(&self.region.term()?, &bytes)?))
    }

    /// What a forked child hears that writes with its parent's handle and term.
    fn fork_write(&self, name: &str) -> Outcome {
        let (gauge, term) = (self.region.gauge(name).open()?, self.region.term()?);
        gauge.set(&term, 1.0)?;
        let child = ask_in_forked_child(|| match gauge.set(&term, 2.0) {
            Err(WriteError::Misuse(Misuse::Forked)) => 1,
            Err(_) => 2,
            Ok(()) => 3,
        });
        gauge.set(&term, 4.0)?;
        match child.map_err(|e| Trouble::usage(e.to_string()))? {
            1 => Ok(json!("forked")),
            2 => Ok(json!("another error")),
            _ => Ok(json!("written")),
        }
    }

    /// Begins to leave, and does not wait for the end of it.
    fn withdraw(&mut self) -> Outcome {
        let leave = self.serving.as_mut().and_then(|serving| serving.leave.take());
        leave.ok_or_else(|| Trouble::usage("ready first"))?.send(()).ok();
        Ok(Value::Null)
    }

    fn leave(&mut self) -> Outcome {
        let Some(Serving { leave, served }) = self.serving.take() else {
            self.attachment = None;
            return Ok(Value::Null);
        };
        leave.map(|leave| leave.send(()).ok());
        let left = served.join().map_err(|_| Trouble::usage("the serving thread panicked"))??;
        Ok(json!({ "owner": left.owner.map(|peer| peer.version), "undrained": left.undrained }))
    }
}
