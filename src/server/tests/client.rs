//! A client on one connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::PATIENCE;

trait Stream: Read + Write + Send + AsFd {}
impl<T: Read + Write + Send + AsFd> Stream for T {}

pub struct Client {
    stream: BufReader<Box<dyn Stream>>,
    token: &'static str,
    /// Whether each request that waits for its reply was a HEAD, oldest first.
    heads: std::collections::VecDeque<bool>,
}

/// A reply, without what depends on the moment.
#[derive(Debug, PartialEq)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

impl Client {
    pub fn new(url: &str, token: &'static str) -> Client {
        let stream: Box<dyn Stream> = match url.strip_prefix("unix:") {
            Some(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Box::new(stream)
            }
            None => {
                let stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Box::new(stream)
            }
        };
        Client { stream: BufReader::new(stream), token, heads: Default::default() }
    }

    pub fn send(&mut self, method: &str, target: &str, headers: &[&str], body: &str) {
        let headers: String = headers.iter().flat_map(|header| [header, "\r\n"]).collect();
        let (token, length) = (self.token, body.len());
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{headers}\
             Content-Length: {length}\r\n\r\n{body}"
        );
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        self.heads.push_back(method == "HEAD");
    }

    pub fn receive(&mut self) -> Reply {
        let line = self.line();
        let status = line[9..12].parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(": ") else { break };
            if name != "Date" {
                headers.push((name.to_owned(), value.to_owned()));
            }
        }
        let mut reply = Reply { status, headers, body: String::new() };
        if !self.heads.pop_front().expect("a reply without a request") {
            reply.body = self.body(&reply);
        }
        reply
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.strip_suffix("\r\n").unwrap_or_else(|| panic!("no line: {line:?}")).to_owned()
    }

    fn body(&mut self, head: &Reply) -> String {
        let mut body = Vec::new();
        if head.header("Transfer-Encoding") == Some("chunked") {
            loop {
                let length = usize::from_str_radix(&self.line(), 16).unwrap();
                let before = body.len();
                body.resize(before + length, 0);
                self.stream.read_exact(&mut body[before..]).unwrap();
                assert_eq!(self.line(), "");
                if length == 0 {
                    break;
                }
            }
        } else if head.status != 204 {
            body.resize(head.header("Content-Length").expect("a length").parse().unwrap(), 0);
            self.stream.read_exact(&mut body).unwrap();
        }
        String::from_utf8(body).unwrap()
    }

    /// Ends the connection without reading on: `hard` by a reset, as a client does that is killed.
    pub fn end(self, hard: bool) {
        if hard {
            rustix::net::sockopt::set_socket_linger(self.stream.get_ref().as_fd(), Some(Duration::ZERO)).unwrap();
        }
    }
}
