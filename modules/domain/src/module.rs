//! A module: which methods it answers, for which kind of actor, and how.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use canopy_proto::Method;
use prost::Message;

use crate::{Change, Code, Context, Draft, Reader, Refusal, State, Step, View};

type Prepare = dyn Fn(&State<'_>, &Bytes, &Context<'_>) -> Result<Option<Step>, Refusal> + Send + Sync;
type Decide = dyn Fn(&State<'_>, &Bytes, &Context<'_>, &mut Draft) -> Result<Bytes, Refusal> + Send + Sync;
type Query = dyn Fn(&State<'_>, &Bytes, &Context<'_>) -> Result<Bytes, Refusal> + Send + Sync;

type Wake = fn(&State<'_>, &Context<'_>, &mut Draft) -> Result<(), Refusal>;

/// How a command is answered.
struct Command {
    prepare: Option<Box<Prepare>>,
    decide: Box<Decide>,
}

/// How a query is answered.
struct Asked {
    prepare: Option<Box<Prepare>>,
    answer: Box<Query>,
}

/// One thing a subscriber follows: the keys of a view that start with a
/// prefix. They go on with `(seq: u64, n: u32)`, big-endian, which points
/// into the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// The view's number.
    pub view: u16,
    /// What its keys start with.
    pub prefix: Vec<u8>,
    /// What to show the subscriber as the source: a channel's name.
    pub label: String,
    /// Show what came after; absent, what comes from now on.
    pub cursor: Option<u64>,
    /// Where it ends by itself; absent, it goes on for as long as somebody
    /// follows.
    pub end: Option<WatchEnd>,
}

/// A watch that shows what there is now, and ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEnd {
    /// The last transaction that is shown.
    pub seq: u64,
    /// The first answer, in place of [`Subscription::opened`].
    pub opened: Bytes,
}

/// How a subscription is answered.
pub struct Subscription {
    /// What to follow in this partition. `own` tells which names in the
    /// request belong to it.
    pub open: fn(&State<'_>, &Bytes, &Context<'_>) -> Result<Vec<Watch>, Refusal>,
    /// The first answer for a watch: complete from `cursor` on.
    pub opened: fn(label: &str, cursor: u64) -> Bytes,
    /// The answer that tells when the stream ends, unless the session is
    /// refreshed.
    pub expiring: fn(expire_time_ms: i64) -> Bytes,
    /// The answer that shows a change, or none where it shows nothing. The
    /// same for every subscriber.
    pub show: fn(label: &str, seq: u64, change: &Change) -> Option<Bytes>,
}

/// Protobuf methods, views and subscriptions of one kind of actor, as data:
/// compiled-in modules and those installed at run time look the same.
pub struct Module {
    /// Kind of actor that it makes: `org`, `chat`.
    pub owner: &'static str,
    views: Vec<View>,
    commands: HashMap<&'static str, Command>,
    queries: HashMap<&'static str, Asked>,
    subscriptions: HashMap<&'static str, Subscription>,
    wake: Option<Wake>,
    keeps_feed: bool,
}

impl Module {
    /// An empty module for a kind of actor.
    pub fn new(owner: &'static str) -> Self {
        Self {
            owner,
            views: Vec::new(),
            commands: HashMap::new(),
            queries: HashMap::new(),
            subscriptions: HashMap::new(),
            wake: None,
            keeps_feed: false,
        }
    }

    /// Adds a view.
    #[must_use]
    pub fn view(mut self, view: View) -> Self {
        self.views.push(view);
        self
    }

    /// Adds a command.
    #[must_use]
    pub fn command<Q, R>(
        mut self,
        method: Method<Q, R>,
        decide: fn(&State<'_>, Q, &Context<'_>, &mut Draft) -> Result<R, Refusal>,
    ) -> Self
    where
        Q: Message + Default + 'static,
        R: Message + 'static,
    {
        let decide = erase_decide(decide);
        self.commands.insert(method.path, Command { prepare: None, decide });
        self
    }

    /// Adds a command with steps before it. `prepare` is asked for the next
    /// step until it has none; it sees a durable state and, in the context,
    /// what the steps so far gave.
    #[must_use]
    pub fn prepared_command<Q, R>(
        mut self,
        method: Method<Q, R>,
        prepare: fn(&State<'_>, &Q, &Context<'_>) -> Result<Option<Step>, Refusal>,
        decide: fn(&State<'_>, Q, &Context<'_>, &mut Draft) -> Result<R, Refusal>,
    ) -> Self
    where
        Q: Message + Default + 'static,
        R: Message + 'static,
    {
        let command = Command { prepare: Some(erase_prepare(prepare)), decide: erase_decide(decide) };
        self.commands.insert(method.path, command);
        self
    }

    /// Adds a query.
    #[must_use]
    pub fn query<Q, R>(
        mut self,
        method: Method<Q, R>,
        query: fn(&State<'_>, Q, &Context<'_>) -> Result<R, Refusal>,
    ) -> Self
    where
        Q: Message + Default + 'static,
        R: Message + 'static,
    {
        self.queries.insert(method.path, Asked { prepare: None, answer: erase_query(query) });
        self
    }

    /// Adds a query with steps before it, as [`Module::prepared_command`]: what
    /// it shows stands in other partitions, too. Steps see an older state than
    /// the query does.
    #[must_use]
    pub fn prepared_query<Q, R>(
        mut self,
        method: Method<Q, R>,
        prepare: fn(&State<'_>, &Q, &Context<'_>) -> Result<Option<Step>, Refusal>,
        query: fn(&State<'_>, Q, &Context<'_>) -> Result<R, Refusal>,
    ) -> Self
    where
        Q: Message + Default + 'static,
        R: Message + 'static,
    {
        let asked = Asked { prepare: Some(erase_prepare(prepare)), answer: erase_query(query) };
        self.queries.insert(method.path, asked);
        self
    }

    /// Adds a subscription.
    #[must_use]
    pub fn subscription<Q, R>(mut self, method: Method<Q, R>, subscription: Subscription) -> Self {
        self.subscriptions.insert(method.path, subscription);
        self
    }

    /// Adds what to do when a time comes that a draft asked for.
    #[must_use]
    pub fn on_wake(mut self, wake: Wake) -> Self {
        self.wake = Some(wake);
        self
    }

    /// Has the feeds of its actors kept from their start, however old: for who
    /// reads history, and where nothing in it is to be forgotten.
    #[must_use]
    pub fn keep_feed(mut self) -> Self {
        self.keeps_feed = true;
        self
    }

    /// Whether feeds are kept from their start.
    pub fn keeps_feed(&self) -> bool {
        self.keeps_feed
    }

    /// Decides what to do now that a wake-up is due.
    ///
    /// # Errors
    /// The module refuses; it is asked again later.
    pub fn wake(&self, reader: &dyn Reader, cx: &Context<'_>, draft: &mut Draft) -> Result<(), Refusal> {
        self.wake.map_or(Ok(()), |wake| wake(&State(reader), cx, draft))
    }

    /// Its views.
    pub fn views(&self) -> &[View] {
        &self.views
    }

    /// Whether the module answers a method.
    pub fn answers(&self, method: &str) -> bool {
        self.commands.contains_key(method)
            || self.queries.contains_key(method)
            || self.subscriptions.contains_key(method)
    }

    /// The next step before a call, if there is one.
    ///
    /// # Errors
    /// The call is refused already now.
    pub fn prepare(
        &self,
        method: &str,
        reader: &dyn Reader,
        request: &Bytes,
        cx: &Context<'_>,
    ) -> Result<Option<Step>, Refusal> {
        match self.steps(method) {
            Some(prepare) => prepare(&State(reader), request, cx),
            None => Ok(None),
        }
    }

    /// Whether a call has steps before it.
    pub fn prepares(&self, method: &str) -> bool {
        self.steps(method).is_some()
    }

    fn steps(&self, method: &str) -> Option<&Prepare> {
        match self.queries.get(method) {
            Some(query) => query.prepare.as_deref(),
            None => self.commands.get(method)?.prepare.as_deref(),
        }
    }

    /// Decides a command: the encoded reply, and what to commit in the draft.
    ///
    /// # Errors
    /// The command is refused; the draft is void.
    pub fn decide(
        &self,
        method: &str,
        reader: &dyn Reader,
        request: &Bytes,
        cx: &Context<'_>,
        draft: &mut Draft,
    ) -> Result<Bytes, Refusal> {
        let command = self.commands.get(method).ok_or_else(|| unimplemented(method))?;
        (command.decide)(&State(reader), request, cx, draft)
    }

    /// Answers a query.
    ///
    /// # Errors
    /// The query is refused.
    pub fn ask(&self, method: &str, reader: &dyn Reader, request: &Bytes, cx: &Context<'_>) -> Result<Bytes, Refusal> {
        let query = self.queries.get(method).ok_or_else(|| unimplemented(method))?;
        (query.answer)(&State(reader), request, cx)
    }

    /// How a subscription is answered.
    ///
    /// # Errors
    /// `UNIMPLEMENTED`: the module has no such subscription.
    pub fn subscription_of(&self, method: &str) -> Result<&Subscription, Refusal> {
        self.subscriptions.get(method).ok_or_else(|| unimplemented(method))
    }
}

/// The modules of an installation, by the kind of actor.
pub struct Modules(HashMap<&'static str, Arc<Module>>);

impl Modules {
    /// Takes modules, one a kind.
    pub fn new(modules: impl IntoIterator<Item = Module>) -> Self {
        Self(modules.into_iter().map(|module| (module.owner, Arc::new(module))).collect())
    }

    /// The kinds of actors that they make.
    pub fn owners(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }

    /// The module of a kind of actor.
    pub fn get(&self, owner: &str) -> Option<&Arc<Module>> {
        self.0.get(owner)
    }
}

fn erase_decide<Q, R>(decide: fn(&State<'_>, Q, &Context<'_>, &mut Draft) -> Result<R, Refusal>) -> Box<Decide>
where
    Q: Message + Default + 'static,
    R: Message + 'static,
{
    Box::new(move |state, request, cx, draft| {
        Ok(decide(state, decode_request(request)?, cx, draft)?.encode_to_vec().into())
    })
}

fn erase_prepare<Q>(prepare: fn(&State<'_>, &Q, &Context<'_>) -> Result<Option<Step>, Refusal>) -> Box<Prepare>
where
    Q: Message + Default + 'static,
{
    Box::new(move |state, request, cx| prepare(state, &decode_request(request)?, cx))
}

fn erase_query<Q, R>(query: fn(&State<'_>, Q, &Context<'_>) -> Result<R, Refusal>) -> Box<Query>
where
    Q: Message + Default + 'static,
    R: Message + 'static,
{
    Box::new(move |state, request, cx| Ok(query(state, decode_request(request)?, cx)?.encode_to_vec().into()))
}

fn decode_request<Q: Message + Default>(request: &Bytes) -> Result<Q, Refusal> {
    Q::decode(request.clone()).map_err(|e| {
        Refusal::new(Code::InvalidArgument, format!("the request cannot be read: {e}"))
            .hint("send the message that the method's descriptor names")
    })
}

fn unimplemented(method: &str) -> Refusal {
    Refusal::new(Code::Unimplemented, format!("{method} is not served here"))
}
