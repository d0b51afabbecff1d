//! Turns: of each connection one request at a time.
//!
//! tiny_http lets a client send any number of requests ahead of their replies, and makes the thread that answers one
//! wait until those before it are answered (`SequentialWriter` in its util/sequential.rs). So of each connection at
//! most one request is under way; the others wait here, bounded in number and memory, and cost no thread.
//!
//! Owns: the requests that wait, and those that are ready for a decider. A request whose turn it is holds a [`Turn`];
//! when that is dropped, the connection's next request goes to the end of what is ready. Connections of a Unix socket
//! can't be told apart: tiny_http gives their requests no address, and nothing else in its interface names the
//! connection. All their requests are ready at once; `pending` and the pool keep their replies in order.
//!
//! Must never happen here: that a request is dropped, which may wait for its client, while the lock is held.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bounds::{MAX_PIPELINED, MAX_WAITING, MAX_WAITING_BYTES, PIPELINED_ALWAYS, PIPELINED_ALWAYS_BYTES};

/// On a Unix socket, where it can't be told which connection sends too much, requests that are ready are refused beyond
/// [`MAX_PIPELINED`], and all connections are ended beyond this many times that.
const UNIX_FACTOR: usize = 4;

/// Called when a request has become ready.
pub type OnReady = Box<dyn Fn() + Send + Sync>;

/// What turns need of a request.
pub trait Request: Sized {
    /// The connection's address; `None` on a Unix socket.
    fn peer(&self) -> Option<SocketAddr>;
    /// Memory that it takes while it waits, in bytes.
    fn weight(&self) -> usize;
    /// Whether its connection is given up.
    fn is_given_up(&self) -> bool;
    /// Notes that there is no room for it.
    fn shed(&mut self);
    /// Notes that it is this request's turn.
    fn begin_turn(&mut self, turn: Turn<Self>);
}

/// The requests that wait.
pub struct Turns<R> {
    /// Locked for a moment, holding nothing else; requests are never dropped under it.
    state: Mutex<State<R>>,
    on_ready: OnReady,
}

struct State<R> {
    /// A connection is in here while one of its requests is ready or under way.
    connections: HashMap<SocketAddr, Waiting<R>>,
    ready: VecDeque<R>,
    /// Requests that wait for those before them on their connections, and the memory they take.
    total: usize,
    bytes: usize,
    /// Requests of a Unix socket that are ready or under way.
    unix: usize,
}

/// Those of one connection that wait, and the memory they take.
struct Waiting<R> {
    requests: VecDeque<R>,
    bytes: usize,
    slow: bool,
}

impl<R> Waiting<R> {
    fn new() -> Waiting<R> {
        Waiting { requests: VecDeque::new(), bytes: 0, slow: false }
    }
}

impl<R> State<R> {
    /// Whether another request of this size may wait after these.
    fn has_room(&self, waiting: &Waiting<R>, more: usize) -> bool {
        let (count, bytes) = (waiting.requests.len(), waiting.bytes + more);
        (self.total < MAX_WAITING && self.bytes + more <= MAX_WAITING_BYTES && count < MAX_PIPELINED)
            || (count < PIPELINED_ALWAYS && bytes <= PIPELINED_ALWAYS_BYTES)
    }

    /// Takes out what waits on this connection.
    fn clear(&mut self, peer: SocketAddr) -> VecDeque<R> {
        let Some(waiting) = self.connections.get_mut(&peer) else { return VecDeque::new() };
        self.total -= waiting.requests.len();
        self.bytes -= std::mem::take(&mut waiting.bytes);
        std::mem::take(&mut waiting.requests)
    }
}

/// What became of a request that was taken from tiny_http.
pub enum Entered<R> {
    /// It is ready, or waits for its turn.
    Kept,
    /// There was no room: its connection must be given up, with these requests, in this order.
    Refused(Vec<R>),
}

impl<R: Request> Turns<R> {
    pub fn new(on_ready: OnReady) -> Arc<Turns<R>> {
        let state = State { connections: HashMap::new(), ready: VecDeque::new(), total: 0, bytes: 0, unix: 0 };
        Arc::new(Turns { state: Mutex::new(state), on_ready })
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request that tiny_http has handed out.
    pub fn enter(self: &Arc<Self>, mut request: R) -> Entered<R> {
        let mut state = self.lock();
        let Some(peer) = request.peer() else {
            request.begin_turn(Turn { turns: Arc::clone(self), peer: None, slow: AtomicBool::new(false) });
            state.unix += 1;
            if state.ready.len() >= UNIX_FACTOR * MAX_PIPELINED {
                return Entered::Refused(vec![request]);
            }
            if state.ready.len() >= MAX_PIPELINED {
                // It stays in its place all the same: its reply must follow those of the requests before it.
                request.shed();
            }
            state.ready.push_back(request);
            return Entered::Kept;
        };
        let Some(waiting) = state.connections.get(&peer) else {
            state.connections.insert(peer, Waiting::new());
            request.begin_turn(Turn { turns: Arc::clone(self), peer: Some(peer), slow: AtomicBool::new(false) });
            state.ready.push_back(request);
            return Entered::Kept;
        };
        let weight = request.weight();
        if state.has_room(waiting, weight) && !request.is_given_up() {
            let State { connections, total, bytes, .. } = &mut *state;
            let waiting = connections.entry(peer).or_insert_with(Waiting::new);
            (*total, *bytes, waiting.bytes) = (*total + 1, *bytes + weight, waiting.bytes + weight);
            waiting.requests.push_back(request);
            return Entered::Kept;
        }
        let mut refused: Vec<R> = state.clear(peer).into();
        refused.push(request);
        Entered::Refused(refused)
    }

    /// The next request that is ready.
    pub fn next_ready(&self) -> Option<R> {
        self.lock().ready.pop_front()
    }

    pub fn is_ready(&self) -> bool {
        !self.lock().ready.is_empty()
    }

    /// Makes a request ready again, whose turn it is.
    pub fn resume(&self, request: R) {
        self.lock().ready.push_back(request);
        (self.on_ready)();
    }

    /// Whether no request is under way, and none waits.
    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        state.connections.is_empty() && state.unix == 0
    }

    /// Requests that wait, or are ready.
    pub fn waiting(&self) -> usize {
        let state = self.lock();
        state.total + state.ready.len()
    }

    /// Ends a turn. Returns whether another request has become ready.
    fn end(self: &Arc<Self>, peer: Option<SocketAddr>, slow: bool) -> bool {
        let mut state = self.lock();
        let Some(peer) = peer else {
            state.unix -= 1;
            return false;
        };
        let Some(waiting) = state.connections.get_mut(&peer) else { return false };
        let Some(mut request) = waiting.requests.pop_front() else {
            state.connections.remove(&peer);
            return false;
        };
        let weight = request.weight();
        waiting.bytes -= weight;
        waiting.slow |= slow;
        let slow = AtomicBool::new(waiting.slow);
        request.begin_turn(Turn { turns: Arc::clone(self), peer: Some(peer), slow });
        state.total -= 1;
        state.bytes -= weight;
        state.ready.push_back(request);
        true
    }
}

/// Held by the request that is under way. Dropped, it makes the connection's next one ready.
pub struct Turn<R: Request> {
    turns: Arc<Turns<R>>,
    peer: Option<SocketAddr>,
    /// The connection's replies have found no room.
    slow: AtomicBool,
}

impl<R: Request> Turn<R> {
    /// Notes that the client was slow to take a reply: the replies to what it has sent ahead are not tried by threads
    /// that must not wait.
    pub fn note_slow(&self) {
        self.slow.store(true, Ordering::Relaxed);
    }

    pub fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }
}

impl<R: Request> Drop for Turn<R> {
    fn drop(&mut self) {
        if self.turns.end(self.peer, *self.slow.get_mut()) {
            (self.turns.on_ready)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Fake {
        number: usize,
        peer: Option<SocketAddr>,
        weight: usize,
        given_up: bool,
        shed: bool,
        turn: Option<Turn<Fake>>,
    }

    impl Request for Fake {
        fn peer(&self) -> Option<SocketAddr> {
            self.peer
        }

        fn weight(&self) -> usize {
            self.weight
        }

        fn is_given_up(&self) -> bool {
            self.given_up
        }

        fn shed(&mut self) {
            self.shed = true;
        }

        fn begin_turn(&mut self, turn: Turn<Fake>) {
            assert!(self.turn.replace(turn).is_none(), "{} has its turn twice", self.number);
        }
    }

    fn address(connection: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1000 + connection as u16))
    }

    fn request(connection: usize, number: usize, weight: usize) -> Fake {
        Fake { number, peer: Some(address(connection)), weight, ..Fake::default() }
    }

    /// Turns, and how often a request has become ready by itself.
    fn turns() -> (Arc<Turns<Fake>>, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let on_ready = move || {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        (Turns::new(Box::new(on_ready)), count)
    }

    fn numbers(entered: Entered<Fake>) -> Option<Vec<usize>> {
        match entered {
            Entered::Kept => None,
            Entered::Refused(requests) => Some(requests.iter().map(|request| request.number).collect()),
        }
    }

    /// Enters this many of one connection, which must all be kept.
    fn keep(turns: &Arc<Turns<Fake>>, connection: usize, numbers: std::ops::Range<usize>, weight: usize) {
        for number in numbers {
            assert!(matches!(turns.enter(request(connection, number, weight)), Entered::Kept), "{number}");
        }
    }

    #[test]
    fn a_connection_has_so_many_and_one_more_ends_it() {
        let (turns, _) = turns();
        // The first one is under way, and does not wait.
        keep(&turns, 0, 0..MAX_PIPELINED + 1, 1);
        let refused = numbers(turns.enter(request(0, MAX_PIPELINED + 1, 1)));
        assert_eq!(refused, Some((1..=MAX_PIPELINED + 1).collect()), "all that waited, in their order");
        assert_eq!(turns.waiting(), 1);
        drop(turns.next_ready());
        assert!(turns.is_idle() && !turns.is_ready());
    }

    #[test]
    fn all_connections_have_so_many_and_beyond_it_each_has_a_few() {
        let (turns, _) = turns();
        for connection in 0..MAX_WAITING / MAX_PIPELINED {
            keep(&turns, connection, 0..MAX_PIPELINED + 1, 1);
        }
        let other = MAX_WAITING;
        keep(&turns, other, 0..PIPELINED_ALWAYS + 1, PIPELINED_ALWAYS_BYTES / PIPELINED_ALWAYS);
        let refused = numbers(turns.enter(request(other, PIPELINED_ALWAYS + 1, 1)));
        assert_eq!(refused.map(|refused| refused.len()), Some(PIPELINED_ALWAYS + 1));
        // One less in all, and a connection may have another.
        keep(&turns, other, 0..PIPELINED_ALWAYS, 1);
        assert!(numbers(turns.enter(request(0, MAX_PIPELINED + 1, 1))).is_some());
        keep(&turns, other, PIPELINED_ALWAYS..MAX_PIPELINED, 1);
    }

    #[test]
    fn requests_have_so_much_memory_and_beyond_it_each_connection_a_little() {
        let (turns, _) = turns();
        keep(&turns, 0, 0..1, 1);
        // What is under way does not count.
        keep(&turns, 1, 0..1, MAX_WAITING_BYTES);
        keep(&turns, 0, 1..2, MAX_WAITING_BYTES);
        keep(&turns, 1, 1..3, PIPELINED_ALWAYS_BYTES / 2);
        assert_eq!(numbers(turns.enter(request(1, 3, 1))), Some(vec![1, 2, 3]));
        // When it is given back it can be taken again, all of it.
        drop(turns.next_ready());
        keep(&turns, 1, 4..5, MAX_WAITING_BYTES - 1);
        keep(&turns, 1, 5..6, 1);
        assert!(numbers(turns.enter(request(1, 6, 1))).is_some());
    }

    #[test]
    fn what_is_given_up_waits_for_nothing() {
        let (turns, _) = turns();
        keep(&turns, 0, 0..2, 1);
        let given_up = Fake { given_up: true, ..request(0, 2, 1) };
        assert_eq!(numbers(turns.enter(given_up)), Some(vec![1, 2]));
    }

    #[test]
    fn on_a_unix_socket_all_are_ready_up_to_a_bound() {
        let (turns, _) = turns();
        let most = UNIX_FACTOR * MAX_PIPELINED;
        for number in 0..most {
            assert!(matches!(turns.enter(Fake { number, ..Fake::default() }), Entered::Kept));
        }
        assert_eq!(numbers(turns.enter(Fake { number: most, ..Fake::default() })), Some(vec![most]));
        for number in 0..most {
            let next = turns.next_ready().unwrap();
            assert_eq!((next.number, next.shed), (number, number >= MAX_PIPELINED));
            assert!(!turns.is_idle());
        }
        assert!(turns.is_idle());
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Enter {
            connection: usize,
            weight: usize,
            given_up: bool,
        },
        Take,
        /// End the turn of the n-th that is under way.
        End {
            nth: usize,
            slow: bool,
        },
        /// Make the n-th that is under way ready again.
        Resume(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let weights =
            [1, PIPELINED_ALWAYS_BYTES / 2, PIPELINED_ALWAYS_BYTES + 1, MAX_WAITING_BYTES / 2, MAX_WAITING_BYTES];
        let enter = (0..4_usize, prop::sample::select(weights.to_vec()), prop::bool::weighted(0.05))
            .prop_map(|(connection, weight, given_up)| Step::Enter { connection, weight, given_up });
        let step = prop_oneof![
            6 => enter,
            4 => Just(Step::Take),
            4 => (0..4_usize, any::<bool>()).prop_map(|(nth, slow)| Step::End { nth, slow }),
            1 => (0..4_usize).prop_map(Step::Resume),
        ];
        prop::collection::vec(step, 1..120)
    }

    /// What should be: of each connection a queue, of which the first is ready or under way.
    #[derive(Default)]
    struct Model {
        /// Numbers and weights.
        queues: HashMap<SocketAddr, VecDeque<(usize, usize)>>,
        slow: HashMap<SocketAddr, bool>,
        ready: VecDeque<usize>,
    }

    impl Model {
        /// Those that wait, and their memory.
        fn sums(&self) -> (usize, usize) {
            let waiting = self.queues.values().flat_map(|queue| queue.iter().skip(1));
            waiting.fold((0, 0), |(count, bytes), (_, weight)| (count + 1, bytes + weight))
        }

        fn enter(&mut self, request: &Fake) -> Option<Vec<usize>> {
            let (total, total_bytes) = self.sums();
            let (number, weight, peer) = (request.number, request.weight, request.peer.unwrap());
            let Some(queue) = self.queues.get_mut(&peer) else {
                self.queues.insert(peer, [(number, weight)].into());
                self.ready.push_back(number);
                return None;
            };
            queue.push_back((number, weight));
            let bytes: usize = queue.iter().skip(1).map(|(_, weight)| weight).sum();
            let much =
                total < MAX_WAITING && total_bytes + weight <= MAX_WAITING_BYTES && queue.len() <= MAX_PIPELINED + 1;
            let little = queue.len() <= PIPELINED_ALWAYS + 1 && bytes <= PIPELINED_ALWAYS_BYTES;
            if (much || little) && !request.given_up {
                return None;
            }
            Some(queue.drain(1..).map(|(number, _)| number).collect())
        }

        /// Returns whether another has become ready.
        fn end(&mut self, peer: SocketAddr, slow: bool) -> bool {
            *self.slow.entry(peer).or_default() |= slow;
            let queue = self.queues.get_mut(&peer).unwrap();
            queue.pop_front();
            match queue.front() {
                Some((number, _)) => self.ready.push_back(*number),
                None => {
                    self.queues.remove(&peer);
                    self.slow.remove(&peer);
                    return false;
                }
            }
            true
        }
    }

    proptest! {
        /// Each request that is not refused becomes ready once, in its connection's order, and never two are under way.
        #[test]
        fn turns_are_a_queue_for_each_connection(steps in steps()) {
            let (turns, count) = turns();
            let (mut model, mut woken, mut under_way) = (Model::default(), 0, Vec::<Fake>::new());
            let end = |model: &mut Model, under_way: &mut Vec<Fake>, woken: &mut usize, nth: usize, slow: bool| {
                let done = under_way.remove(nth);
                if slow {
                    done.turn.as_ref().unwrap().note_slow();
                }
                let peer = done.peer.unwrap();
                let slow = done.turn.as_ref().unwrap().is_slow();
                drop(done);
                *woken += usize::from(model.end(peer, slow));
            };
            for (number, step) in steps.iter().enumerate() {
                match *step {
                    Step::Enter { connection, weight, given_up } => {
                        let request = Fake { given_up, ..request(connection, number, weight) };
                        let expected = model.enter(&request);
                        prop_assert_eq!(numbers(turns.enter(request)), expected);
                    }
                    Step::Take => {
                        let next = turns.next_ready();
                        prop_assert_eq!(next.as_ref().map(|next| next.number), model.ready.pop_front());
                        if let Some(next) = &next {
                            let peer = next.peer.unwrap();
                            prop_assert!(under_way.iter().all(|other| other.peer != next.peer), "two are under way");
                            let slow = model.slow.get(&peer).copied().unwrap_or_default();
                            prop_assert_eq!(next.turn.as_ref().map(Turn::is_slow), Some(slow));
                        }
                        under_way.extend(next);
                    }
                    Step::End { nth, slow } if nth < under_way.len() => {
                        end(&mut model, &mut under_way, &mut woken, nth, slow);
                    }
                    Step::Resume(nth) if nth < under_way.len() => {
                        let request = under_way.remove(nth);
                        model.ready.push_back(request.number);
                        turns.resume(request);
                        woken += 1;
                    }
                    Step::End { .. } | Step::Resume(_) => {}
                }
                prop_assert_eq!(count.load(Ordering::Relaxed), woken);
                prop_assert_eq!(turns.waiting(), model.sums().0 + model.ready.len());
                prop_assert_eq!(turns.is_ready(), !model.ready.is_empty());
                prop_assert_eq!(turns.is_idle(), model.queues.is_empty());
            }
            // Whatever came before, all that is left gets its turn.
            loop {
                under_way.extend(std::iter::from_fn(|| turns.next_ready()));
                model.ready.clear();
                if under_way.is_empty() {
                    break;
                }
                end(&mut model, &mut under_way, &mut woken, 0, false);
            }
            prop_assert!(turns.is_idle() && model.queues.is_empty());
            let state = turns.lock();
            prop_assert_eq!((state.total, state.bytes), (0, 0));
        }
    }
}
