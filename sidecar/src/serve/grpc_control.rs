//! `heirloom.v1.ControlService`: what deploy tools and people call, on the Unix socket and on TCP.

use std::sync::Arc;
use std::time::Duration;

use heirloom_proto::v1::control_service_server::ControlService;
use heirloom_proto::v1::{self, ErrorReason};
use heirloom_proto::{Failure, names};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::follower::{Events, follower};
use super::host::Host;
use super::hosts::{Hosts, Slot, bad_name};
use super::peer::Caller;
use super::switch::{self, EventStream};
use super::{convert, verify};

/// Entries of a page if the caller does not say.
const PAGE_SIZE_DEFAULT: i32 = 50;
const PAGE_SIZE_MAX: i32 = 1000;

/// What is optional in this build; a client asks before it relies on one.
pub(crate) const FEATURES: &[&str] =
    &["handover", "rollback", "promotion", "succession", "auto-replica", "verify", "watch"];

/// The service; clones share everything.
#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) region_dir: String,
    pub(crate) start_unix_ms: u64,
    /// True once the sidecar stops.
    pub(crate) stopping: watch::Receiver<bool>,
}

pub(crate) fn caller<T>(request: &Request<T>) -> String {
    request.extensions().get::<Caller>().map_or_else(|| "unknown".to_owned(), Caller::to_string)
}

pub(crate) fn stopping_failure() -> Failure {
    Failure::new(ErrorReason::ShuttingDown, "the sidecar is stopping")
}

/// Completes when the sidecar stops.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Region and number of a handover's resource name.
fn handover_name(name: &str) -> Result<(&str, Option<u64>), Failure> {
    names::parse_handover(name).ok_or_else(|| bad_name(name, "regions/{region}/handovers/{number}"))
}

fn numbered(name: &str) -> Result<(&str, u64), Failure> {
    match handover_name(name)? {
        (region, Some(number)) => Ok((region, number)),
        (_, None) => Err(bad_name(name, "regions/{region}/handovers/{number}")),
    }
}

fn page_size(asked: i32) -> Result<usize, Failure> {
    match asked {
        0 => Ok(PAGE_SIZE_DEFAULT as usize),
        n if n > 0 => Ok(n.min(PAGE_SIZE_MAX) as usize),
        n => {
            Err(Failure::new(ErrorReason::InvalidField, "page_size").expected(format!("0 to {PAGE_SIZE_MAX}")).found(n))
        }
    }
}

impl Control {
    /// The running handover's number, or the one asked for.
    async fn watched(&self, name: &str) -> Result<(Arc<Host>, u64), Failure> {
        let (region, number) = handover_name(name)?;
        let host = self.hosts.host(region)?;
        let number = match number {
            Some(number) => number,
            None => host.status().await?.active_handover.ok_or_else(|| {
                Failure::new(ErrorReason::HandoverNotFound, "no handover is running").region(region).found("none")
            })?,
        };
        Ok((host, number))
    }

    /// A region, served or not.
    pub(crate) async fn region(&self, name: &str) -> Result<v1::Region, Failure> {
        match self.hosts.slot(name)? {
            Slot::Serving(host) => host.region().await,
            Slot::Quarantined(region) => Ok((*region).clone()),
        }
    }
}

#[tonic::async_trait]
impl ControlService for Control {
    type WatchRegionsStream = EventStream<v1::RegionEvent>;
    type HandoverStream = EventStream<v1::HandoverEvent>;
    type RollbackStream = EventStream<v1::HandoverEvent>;
    type WatchHandoverStream = EventStream<v1::HandoverEvent>;
    type VerifyRegionStream = EventStream<v1::VerifyEvent>;

    async fn get_server_info(&self, _: Request<v1::GetServerInfoRequest>) -> Result<Response<v1::ServerInfo>, Status> {
        Ok(Response::new(v1::ServerInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            region_format_majors: vec![heirloom_region::layout::MAJOR.into()],
            features: FEATURES.iter().map(|f| (*f).to_owned()).collect(),
            region_dir: self.region_dir.clone(),
            pid: std::process::id(),
            start_time: convert::timestamp(self.start_unix_ms),
        }))
    }

    async fn get_region(&self, request: Request<v1::GetRegionRequest>) -> Result<Response<v1::Region>, Status> {
        let name = &request.get_ref().name;
        let region = names::parse_region(name).ok_or_else(|| bad_name(name, "regions/{region}"))?;
        Ok(Response::new(self.region(region).await?))
    }

    async fn list_regions(
        &self,
        request: Request<v1::ListRegionsRequest>,
    ) -> Result<Response<v1::ListRegionsResponse>, Status> {
        let v1::ListRegionsRequest { page_size: asked, page_token } = request.into_inner();
        let size = page_size(asked)?;
        let mut rest = self.hosts.all().into_iter().filter(|(name, _)| *name > page_token);
        let (mut regions, mut last) = (Vec::new(), String::new());
        for (name, slot) in rest.by_ref().take(size) {
            match slot {
                Slot::Serving(host) => regions.push(host.region().await?),
                Slot::Quarantined(region) => regions.push((*region).clone()),
            }
            last = name;
        }
        let next_page_token = if rest.next().is_some() { last } else { String::new() };
        Ok(Response::new(v1::ListRegionsResponse { regions, next_page_token }))
    }

    async fn watch_regions(
        &self,
        request: Request<v1::WatchRegionsRequest>,
    ) -> Result<Response<Self::WatchRegionsStream>, Status> {
        let v1::WatchRegionsRequest { name, after_sequence } = request.into_inner();
        if name != "regions/-" {
            let region = names::parse_region(&name).ok_or_else(|| bad_name(&name, "regions/{region} or regions/-"))?;
            self.hosts.slot(region)?;
        }
        let subscription = self.hosts.journal.subscribe(after_sequence).map_err(out_of_range)?;
        let (out, stream) = mpsc::channel(64);
        tokio::spawn(watch_regions(name, subscription, self.stopping.clone(), out));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn handover(&self, request: Request<v1::HandoverRequest>) -> Result<Response<Self::HandoverStream>, Status> {
        let caller = caller(&request);
        let v1::HandoverRequest { name, target, options } = request.into_inner();
        let host = self.hosts.named(&name)?;
        let follow_drain = options.as_ref().is_some_and(|o| o.follow_drain);
        let target = switch::target(&host.name, target)?;
        let switch = switch::handover(host, target, convert::switch_options(options), caller)?;
        Ok(Response::new(switch.into_stream(follow_drain).await?))
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Result<Response<Self::RollbackStream>, Status> {
        let caller = caller(&request);
        let v1::RollbackRequest { name, handover, options } = request.into_inner();
        let host = self.hosts.named(&name)?;
        let number = match handover.as_str() {
            "" => None,
            handover => match numbered(handover)? {
                (region, number) if region == host.name => Some(number),
                (region, _) => {
                    let failure = Failure::new(ErrorReason::HandoverNotFound, "the handover is of another region");
                    return Err(failure.region(&*host.name).expected(&name).found(names::region(region)).into());
                }
            },
        };
        let follow_drain = options.as_ref().is_some_and(|o| o.follow_drain);
        let switch = switch::rollback(host, number, convert::switch_options(options), caller)?;
        Ok(Response::new(switch.into_stream(follow_drain).await?))
    }

    async fn abort_handover(
        &self,
        request: Request<v1::AbortHandoverRequest>,
    ) -> Result<Response<v1::HandoverRecord>, Status> {
        let v1::AbortHandoverRequest { name, note } = request.into_inner();
        let (region, number) = handover_name(&name)?;
        let host = self.hosts.host(region)?;
        let record = host.ask_for(|arbiter, reply| arbiter.abort(number, note, reply)).await?;
        Ok(Response::new(convert::record(region, &record)))
    }

    async fn get_handover(
        &self,
        request: Request<v1::GetHandoverRequest>,
    ) -> Result<Response<v1::HandoverRecord>, Status> {
        let (host, number) = self.watched(&request.get_ref().name).await?;
        let record = host.ask_for(|arbiter, reply| arbiter.record(number, reply)).await?;
        Ok(Response::new(convert::record(&host.name, &record)))
    }

    async fn list_handovers(
        &self,
        request: Request<v1::ListHandoversRequest>,
    ) -> Result<Response<v1::ListHandoversResponse>, Status> {
        let v1::ListHandoversRequest { parent, page_size: asked, page_token } = request.into_inner();
        let host = self.hosts.named(&parent)?;
        let size = page_size(asked)?;
        let before = match page_token.as_str() {
            "" => None,
            token => Some(token.parse::<u64>().map_err(|_| {
                Failure::new(ErrorReason::InvalidField, "page_token")
                    .expected("a token of an earlier answer")
                    .found(token)
            })?),
        };
        let mut records = host.ask(|arbiter, reply| arbiter.history(size + 1, before, reply)).await?;
        let more = records.len() > size;
        records.truncate(size);
        let next_page_token = records.last().filter(|_| more).map(|r| r.number.to_string()).unwrap_or_default();
        let handovers = records.iter().map(|r| convert::record(&host.name, r)).collect();
        Ok(Response::new(v1::ListHandoversResponse { handovers, next_page_token }))
    }

    async fn watch_handover(
        &self,
        request: Request<v1::WatchHandoverRequest>,
    ) -> Result<Response<Self::WatchHandoverStream>, Status> {
        let (host, number) = self.watched(&request.get_ref().name).await?;
        let (observer, events) = follower();
        host.ask_for(|arbiter, reply| arbiter.watch_handover(number, observer, reply)).await?;
        let (out, stream) = mpsc::channel(16);
        tokio::spawn(watch_handover(host.name.clone(), events, out));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn drain_instance(
        &self,
        request: Request<v1::DrainInstanceRequest>,
    ) -> Result<Response<v1::Instance>, Status> {
        let v1::DrainInstanceRequest { name, force, drain_timeout_ms } = request.into_inner();
        let (region, instance) =
            names::parse_instance(&name).ok_or_else(|| bad_name(&name, "regions/{region}/instances/{instance}"))?;
        let host = self.hosts.host(region)?;
        let timeout = drain_timeout_ms.map(|ms| Duration::from_millis(ms.into()));
        let instance = instance.to_owned();
        let status = host.ask_for(|arbiter, reply| arbiter.drain(instance, force, timeout, reply)).await?;
        Ok(Response::new(convert::instance(region, &status)))
    }

    async fn verify_region(
        &self,
        request: Request<v1::VerifyRegionRequest>,
    ) -> Result<Response<Self::VerifyRegionStream>, Status> {
        let host = self.hosts.named(&request.get_ref().name)?;
        Ok(Response::new(verify::stream(host)))
    }
}

/// The protocol wants OUT_OF_RANGE here, so that a watcher can tell "start anew" from a mistake of its own.
fn out_of_range(failure: Failure) -> Status {
    let status = failure.to_status();
    Status::with_details(Code::OutOfRange, status.message(), status.details().to_vec().into())
}

async fn watch_handover(region: String, mut events: Events, out: mpsc::Sender<Result<v1::HandoverEvent, Status>>) {
    loop {
        let event = tokio::select! {
            () = out.closed() => return,
            event = events.recv() => event,
        };
        let Some(event) = event else { break };
        if out.send(Ok(convert::handover_event(&region, &event))).await.is_err() {
            return;
        }
    }
    if let Err(lagged) = events.complete(&region) {
        let _ = out.send(Err(lagged.to_status())).await;
    }
}

async fn watch_regions(
    name: String,
    mut from: super::journal::Subscription,
    mut stopping: watch::Receiver<bool>,
    out: mpsc::Sender<Result<v1::RegionEvent, Status>>,
) {
    let wanted = |event: &v1::RegionEvent| name == "regions/-" || event.region.as_ref().is_some_and(|r| r.name == name);
    for event in from.begin.into_iter().filter(|e| wanted(e)) {
        if out.send(Ok(event)).await.is_err() {
            return;
        }
    }
    let end = loop {
        tokio::select! {
            () = out.closed() => return,
            () = stopped(&mut stopping) => break stopping_failure().to_status(),
            event = from.live.recv() => match event {
                Ok(event) if wanted(&event) => if out.send(Ok(event)).await.is_err() { return },
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    let failure = Failure::new(ErrorReason::InvalidField, "this watcher read too slowly: start anew");
                    break out_of_range(failure.expected("no event missed").found(missed));
                }
                Err(broadcast::error::RecvError::Closed) => break stopping_failure().to_status(),
            },
        }
    };
    let _ = out.send(Err(end)).await;
}
