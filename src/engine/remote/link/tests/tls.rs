//! A store that speaks TLS.

use std::process::Command;

use super::servers::{Server, Software, free_port};
use super::*;

/// The address of the store, for the half of the test that runs in a process of its own.
const ADDRESS: &str = "FLINT_TEST_TLS_STORE";

/// The machine's certificates are found by the environment, which is another process' own.
#[test]
fn a_store_is_reached_over_tls() {
    if let Ok(address) = std::env::var(ADDRESS) {
        let mut link = open(&address).link();
        won(one(&mut link, put(b"flint:a", Known::Absent, b"1")));
        assert_eq!(fetched(&mut link, b"flint:a").1, b"1");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", &key, "-out", &cert]);
    let Ok(made) = openssl.output() else { return eprintln!("SKIPPED: openssl is not installed") };
    assert!(made.status.success(), "{made:?}");
    let port = free_port().to_string();
    let settings = ["--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-auth-clients", "no"];
    let Some(_server) = Server::start(Software::Redis, &settings) else { return };
    let address = format!("rediss://127.0.0.1:{port}");
    // Nobody has vouched for the certificate.
    let error = try_open(&address, 0).map(drop).unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["a_store_is_reached_over_tls", "--nocapture"]).env(ADDRESS, &address).env("SSL_CERT_FILE", &cert);
    let done = again.output().unwrap();
    assert!(done.status.success(), "{done:?}");
}
