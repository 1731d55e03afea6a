//! What a user would run instead, as a yardstick: nginx, mTLS under TLS 1.3 without resumption, and a static answer.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;
use sdwand::federation::pki::{Usage, pem_of};
use sdwand::model::Name;

use crate::daemon::{Layout, cpu_of, wall};
use crate::load::Target;
use crate::sites::Sites;

pub(crate) struct Nginx {
    child: Child,
    target: Target,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Nginx {
    /// None where it isn't installed.
    pub(crate) async fn start(layout: &Layout, sites: &Sites) -> Option<Self> {
        let root = layout.root().display();
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        let node = Name::new("gw").unwrap();
        let leaf = layout
            .ca()
            .issue(&layout.site, &node, Usage::Serve, wall())
            .unwrap();
        let chain: String = leaf.chain.iter().map(pem_of).collect();
        let PrivateKeyDer::Pkcs8(key) = &leaf.key else {
            unreachable!("keys are PKCS #8");
        };
        let key = pem::encode(&pem::Pem::new("PRIVATE KEY", key.secret_pkcs8_der()));
        let anchors: String = sites.0.iter().map(|site| site.anchor_pem()).collect();
        for (name, text) in [("web.pem", chain), ("web.key", key), ("callers.pem", anchors)] {
            std::fs::write(layout.root().join(name), text).unwrap();
        }
        let answer = "x".repeat(500);
        let config = format!(
            "daemon off; master_process off; pid {root}/web.pid; error_log stderr error;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;\n\
             uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n\
             server {{ listen {address} ssl; ssl_protocols TLSv1.3; ssl_session_tickets off; ssl_session_cache off;\n\
             ssl_certificate {root}/web.pem; ssl_certificate_key {root}/web.key; ssl_verify_client on;\n\
             ssl_client_certificate {root}/callers.pem; keepalive_requests 1000000000;\n\
             location / {{ return 200 '{answer}'; }} }} }}\n"
        );
        std::fs::write(layout.root().join("web.conf"), config).unwrap();
        let child = Command::new("nginx")
            .arg("-c")
            .arg(layout.root().join("web.conf"))
            .stdin(Stdio::null())
            .spawn()
            .ok()?;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let target = Target {
            address,
            anchor: layout.anchor(),
            site: layout.site.clone(),
        };
        Some(Self { child, target })
    }

    pub(crate) fn target(&self) -> Target {
        self.target.clone()
    }

    pub(crate) fn cpu(&self) -> Duration {
        cpu_of(self.child.id())
    }
}
