//! A sidecar that does what a test tells it, on a Unix socket of its own.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use heirloom_proto::v1::control_service_server::{ControlService, ControlServiceServer};
use heirloom_proto::v1::*;
use heirloom_proto::{Failure, names};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};

type Stream<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

/// What a switch does next.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)]
pub(crate) enum Act {
    Event(HandoverRecord),
    Fail(Failure),
    /// Until AbortHandover is called, or the test says so.
    AwaitAbort,
    /// For ever.
    Hang,
}

/// What the sidecar was told to answer, and what it was asked.
#[derive(Default)]
pub(crate) struct Script {
    /// One for each call of Handover or Rollback.
    pub(crate) switches: VecDeque<Vec<Act>>,
    pub(crate) regions: Vec<Region>,
    pub(crate) history: Vec<HandoverRecord>,
    pub(crate) changes: Vec<RegionEvent>,
    /// So many watchers are let go after their first change, if there is one, as too slow.
    pub(crate) lagging: u32,
    /// After so many more.
    pub(crate) lagging_after: usize,
    pub(crate) watches: Vec<WatchRegionsRequest>,
    pub(crate) abort: Option<Result<HandoverRecord, Failure>>,
    pub(crate) verify: Vec<VerifyEvent>,
    pub(crate) verify_end: Option<Failure>,
    pub(crate) info: ServerInfo,
    /// Answered to every read.
    pub(crate) deny: Option<Failure>,
    pub(crate) handovers: Vec<HandoverRequest>,
    pub(crate) rollbacks: Vec<RollbackRequest>,
    pub(crate) aborts: Vec<AbortHandoverRequest>,
    pub(crate) drains: Vec<DrainInstanceRequest>,
}

/// The running fake. Dropping it breaks every connection at once, as a kill does.
pub(crate) struct Fake {
    pub(crate) script: Arc<Mutex<Script>>,
    pub(crate) aborted: Arc<watch::Sender<bool>>,
    path: PathBuf,
    runtime: Option<Runtime>,
}

impl Fake {
    pub(crate) fn start(path: &Path, script: Script) -> Fake {
        let script = Arc::new(Mutex::new(script));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _ = std::fs::remove_file(path);
        let listener = runtime.block_on(async { UnixListener::bind(path).unwrap() });
        let aborted = Arc::new(watch::channel(false).0);
        let service = Service { script: Arc::clone(&script), aborted: Arc::clone(&aborted) };
        let server = tonic::transport::Server::builder().add_service(ControlServiceServer::new(service));
        runtime.spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        Fake { script, aborted, path: path.to_owned(), runtime: Some(runtime) }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Service {
    script: Arc<Mutex<Script>>,
    aborted: Arc<watch::Sender<bool>>,
}

impl Service {
    fn play(&self) -> Answer<Stream<HandoverEvent>> {
        let acts = self.script.lock().unwrap().switches.pop_front().expect("a switch more than the script has");
        // A refusal is the answer itself, not the end of a stream.
        if let [Act::Fail(failure)] = acts.as_slice() {
            return Err(failure.to_status());
        }
        let (events, receiver) = mpsc::channel(16);
        let mut aborted = self.aborted.subscribe();
        tokio::spawn(async move {
            for (sequence, act) in (1..).zip(acts) {
                let sent = match act {
                    Act::Event(record) => {
                        let handover = Some(record);
                        let (precopy_dirty_pages, precopy_target_pages) = (412, 96);
                        let event = HandoverEvent {
                            sequence,
                            handover,
                            precopy_dirty_pages,
                            precopy_target_pages,
                            ..Default::default()
                        };
                        events.send(Ok(event)).await
                    }
                    Act::Fail(failure) => events.send(Err(failure.to_status())).await,
                    Act::AwaitAbort => {
                        let _ = aborted.wait_for(|aborted| *aborted).await;
                        Ok(())
                    }
                    Act::Hang => std::future::pending().await,
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    fn allowed(&self) -> Result<(), Status> {
        match &self.script.lock().unwrap().deny {
            Some(failure) => Err(failure.to_status()),
            None => Ok(()),
        }
    }
}

fn listed<T: Send + 'static>(items: Vec<T>, end: Option<Failure>) -> Response<Stream<T>> {
    let items = items.into_iter().map(Ok).chain(end.map(|failure| Err(failure.to_status())));
    Response::new(Box::pin(tokio_stream::iter(items.collect::<Vec<_>>())))
}

#[tonic::async_trait]
impl ControlService for Service {
    type WatchRegionsStream = Stream<RegionEvent>;
    type HandoverStream = Stream<HandoverEvent>;
    type RollbackStream = Stream<HandoverEvent>;
    type WatchHandoverStream = Stream<HandoverEvent>;
    type VerifyRegionStream = Stream<VerifyEvent>;

    async fn get_server_info(&self, _: Request<GetServerInfoRequest>) -> Answer<ServerInfo> {
        Ok(Response::new(self.script.lock().unwrap().info.clone()))
    }
    async fn get_region(&self, request: Request<GetRegionRequest>) -> Answer<Region> {
        let name = request.into_inner().name;
        let script = self.script.lock().unwrap();
        let found = script.regions.iter().find(|r| r.name == name).cloned();
        let none =
            || Failure::new(ErrorReason::RegionNotFound, format!("there is no {name}")).found("nothing").to_status();
        found.map(Response::new).ok_or_else(none)
    }
    async fn list_regions(&self, request: Request<ListRegionsRequest>) -> Answer<ListRegionsResponse> {
        self.allowed()?;
        // One a page, so that paging is seen.
        let at: usize = request.into_inner().page_token.parse().unwrap_or(0);
        let all = self.script.lock().unwrap().regions.clone();
        let next = if at + 1 < all.len() { (at + 1).to_string() } else { String::new() };
        let regions = all.into_iter().skip(at).take(1).collect();
        Ok(Response::new(ListRegionsResponse { regions, next_page_token: next }))
    }
    async fn watch_regions(&self, request: Request<WatchRegionsRequest>) -> Answer<Self::WatchRegionsStream> {
        let mut script = self.script.lock().unwrap();
        script.watches.push(request.into_inner());
        if script.lagging == 0 {
            return Ok(listed(script.changes.clone(), None));
        }
        script.lagging -= 1;
        let lagged = Failure::new(ErrorReason::InvalidField, "this watcher read too slowly: start anew").to_status();
        let lagged = Status::with_details(tonic::Code::OutOfRange, lagged.message(), lagged.details().to_vec().into());
        let items: Vec<_> =
            script.changes.iter().take(1 + script.lagging_after).cloned().map(Ok).chain([Err(lagged)]).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }
    async fn handover(&self, request: Request<HandoverRequest>) -> Answer<Self::HandoverStream> {
        self.script.lock().unwrap().handovers.push(request.into_inner());
        self.play()
    }
    async fn rollback(&self, request: Request<RollbackRequest>) -> Answer<Self::RollbackStream> {
        self.script.lock().unwrap().rollbacks.push(request.into_inner());
        self.play()
    }
    async fn abort_handover(&self, request: Request<AbortHandoverRequest>) -> Answer<HandoverRecord> {
        let answer = {
            let mut script = self.script.lock().unwrap();
            script.aborts.push(request.into_inner());
            script.abort.clone()
        };
        self.aborted.send_replace(true);
        match answer {
            Some(Ok(record)) => Ok(Response::new(record)),
            Some(Err(failure)) => Err(failure.to_status()),
            None => std::future::pending().await,
        }
    }
    async fn get_handover(&self, request: Request<GetHandoverRequest>) -> Answer<HandoverRecord> {
        let name = request.into_inner().name;
        let found = self.script.lock().unwrap().history.iter().find(|h| h.name == name).cloned();
        found.map(Response::new).ok_or_else(|| Failure::new(ErrorReason::HandoverNotFound, name).to_status())
    }
    async fn list_handovers(&self, request: Request<ListHandoversRequest>) -> Answer<ListHandoversResponse> {
        let parent = request.into_inner().parent;
        if names::parse_region(&parent) != Some("shop") {
            return Err(Failure::new(ErrorReason::RegionNotFound, parent).to_status());
        }
        let handovers = self.script.lock().unwrap().history.clone();
        Ok(Response::new(ListHandoversResponse { handovers, next_page_token: String::new() }))
    }
    async fn watch_handover(&self, _: Request<WatchHandoverRequest>) -> Answer<Self::WatchHandoverStream> {
        Err(Status::unimplemented("not used"))
    }
    async fn drain_instance(&self, request: Request<DrainInstanceRequest>) -> Answer<Instance> {
        let request = request.into_inner();
        let name = request.name.clone();
        self.script.lock().unwrap().drains.push(request);
        Ok(Response::new(Instance {
            name,
            version: "1.9.0".into(),
            role: instance::Role::Draining.into(),
            ..Default::default()
        }))
    }
    async fn verify_region(&self, _: Request<VerifyRegionRequest>) -> Answer<Self::VerifyRegionStream> {
        let script = self.script.lock().unwrap();
        Ok(listed(script.verify.clone(), script.verify_end.clone()))
    }
}
