//! A wire that speaks a later release: a proxy before a sidecar's socket that adds to every message, at every depth and in both
//! directions, fields that nobody here knows; and between the messages of an attached stream whole messages of a kind that
//! nobody here knows. What each side sees is what a peer of the next release would send it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::server::{NamedService, StreamingService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// Far beyond what any release has.
const UNKNOWN: u32 = 4_000;

type Words = Vec<u8>;
type Body = tonic::body::Body;

/// A proxy that runs until it is dropped.
#[derive(Debug)]
pub struct Newer {
    _runtime: Runtime,
    socket: PathBuf,
}

impl Newer {
    /// Listens at `socket` and passes on to `sidecar`.
    ///
    /// # Panics
    /// If it cannot.
    pub fn before(sidecar: &Path, socket: &Path) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let endpoint = Endpoint::try_from(format!("unix:{}", sidecar.display())).expect("a socket's path");
        let (listener, channel) = runtime.block_on(async {
            (UnixListener::bind(socket).expect("a free path"), endpoint.connect().await.expect("a sidecar"))
        });
        let schema = Arc::new(Schema::of_this_build());
        let control = Control(Proxy { channel: channel.clone(), schema: Arc::clone(&schema) });
        let server = Server::builder().add_service(control).add_service(Attaching(Proxy { channel, schema }));
        runtime.spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        Newer { _runtime: runtime, socket: socket.to_owned() }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// Which fields of which message are messages, and what each method takes and gives.
struct Schema {
    messages: HashMap<String, DescriptorProto>,
    methods: HashMap<String, (String, String)>,
}

impl Schema {
    fn of_this_build() -> Self {
        let set = FileDescriptorSet::decode(heirloom_proto::FILE_DESCRIPTOR_SET).expect("ours");
        let mut schema = Schema { messages: HashMap::new(), methods: HashMap::new() };
        for file in &set.file {
            file.message_type.iter().for_each(|message| schema.add(&format!(".{}", file.package()), message));
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    schema.methods.insert(path, (method.input_type().into(), method.output_type().into()));
                }
            }
        }
        schema
    }

    fn add(&mut self, within: &str, message: &DescriptorProto) {
        let name = format!("{within}.{}", message.name());
        message.nested_type.iter().for_each(|nested| self.add(&name, nested));
        self.messages.insert(name, message.clone());
    }

    /// The same message with unknown fields in it and in each message inside it.
    fn widened(&self, kind: &str, mut from: &[u8]) -> Words {
        let message = &self.messages[kind];
        let mut to = Vec::new();
        while from.has_remaining() {
            let (tag, wire) = decode_key(&mut from).expect("sound");
            encode_key(tag, wire, &mut to);
            match wire {
                WireType::Varint => encode_varint(decode_varint(&mut from).expect("sound"), &mut to),
                WireType::SixtyFourBit => to.put(from.copy_to_bytes(8)),
                WireType::ThirtyTwoBit => to.put(from.copy_to_bytes(4)),
                WireType::LengthDelimited => {
                    let len = decode_varint(&mut from).expect("sound") as usize;
                    let value = from.copy_to_bytes(len);
                    let field = message.field.iter().find(|field| field.number() == tag as i32).expect("known");
                    let value = match field.r#type() {
                        Type::Message => self.widened(field.type_name(), &value),
                        _ => value.to_vec(),
                    };
                    encode_varint(value.len() as u64, &mut to);
                    to.put(value.as_slice());
                }
                WireType::StartGroup | WireType::EndGroup => panic!("we have no groups"),
            }
        }
        to.extend(stranger());
        to
    }
}

/// Fields of each wire type that nobody knows.
fn stranger() -> Words {
    let mut to = Vec::new();
    encode_key(UNKNOWN, WireType::Varint, &mut to);
    encode_varint(u64::MAX, &mut to);
    encode_key(UNKNOWN + 1, WireType::LengthDelimited, &mut to);
    encode_varint(3, &mut to);
    to.put(&b"new"[..]);
    encode_key(UNKNOWN + 2, WireType::SixtyFourBit, &mut to);
    to.put_u64_le(7);
    encode_key(UNKNOWN + 3, WireType::ThirtyTwoBit, &mut to);
    to.put_u32_le(7);
    to
}

/// Messages as they are on the wire.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Words;
    type Decode = Words;
    type Encoder = Raw;
    type Decoder = Raw;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Words;
    type Error = Status;
    fn encode(&mut self, item: Words, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item.as_slice());
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Words;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Words>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

#[derive(Clone)]
struct Proxy {
    channel: Channel,
    schema: Arc<Schema>,
}

impl Proxy {
    fn answer(&self, request: http::Request<Body>) -> BoxFuture<http::Response<Body>, Infallible> {
        let path = request.uri().path_and_query().expect("a method").clone();
        let method = Method { proxy: self.clone(), path };
        Box::pin(async move { Ok(tonic::server::Grpc::new(Raw).streaming(method, request).await) })
    }
}

/// One call; a message alone is a stream of one.
struct Method {
    proxy: Proxy,
    path: http::uri::PathAndQuery,
}

impl StreamingService<Words> for Method {
    type Response = Words;
    type ResponseStream = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<Words, Status>> + Send>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Words>>) -> Self::Future {
        let (Proxy { channel, schema }, path) = (self.proxy.clone(), self.path.clone());
        Box::pin(async move {
            let (takes, gives) = schema.methods[path.path()].clone();
            let attaches = path.path().ends_with("/Attach");
            let towards = Arc::clone(&schema);
            // It ends where its client is gone, and with it the call.
            let asked = request.into_inner().map_while(Result::ok).map(move |m| towards.widened(&takes, &m));
            let mut client = tonic::client::Grpc::new(channel);
            client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
            let answer = client.streaming(Request::new(between(asked, attaches)), path, Raw).await?;
            let answered = answer.into_inner().map(move |m| m.map(|m| schema.widened(&gives, &m)));
            let back: Self::ResponseStream = match attaches {
                true => Box::pin(between(answered.map_while(Result::ok), true).map(Ok)),
                false => Box::pin(answered),
            };
            Ok(Response::new(back))
        })
    }
}

/// After each message, but before no first one, a message of another kind, if it is a stream that has several.
fn between(
    stream: impl tokio_stream::Stream<Item = Words> + Send + 'static,
    has_several: bool,
) -> impl tokio_stream::Stream<Item = Words> + Send + 'static {
    let (to, from) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        while let Some(message) = stream.next().await {
            if to.send(message).is_err() || has_several && to.send(stranger()).is_err() {
                return;
            }
        }
    });
    tokio_stream::wrappers::UnboundedReceiverStream::new(from)
}

macro_rules! service {
    ($name:ident, $path:literal) => {
        #[derive(Clone)]
        struct $name(Proxy);

        impl NamedService for $name {
            const NAME: &'static str = $path;
        }

        impl Service<http::Request<Body>> for $name {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future = BoxFuture<http::Response<Body>, Infallible>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }
            fn call(&mut self, request: http::Request<Body>) -> Self::Future {
                self.0.answer(request)
            }
        }
    };
}

service!(Control, "heirloom.v1.ControlService");
service!(Attaching, "heirloom.v1.InstanceService");
