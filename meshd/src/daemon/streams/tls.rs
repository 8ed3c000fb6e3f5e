//! TLS around a connection: for networks that let nothing else through, and for proxies that look.
//!
//! It protects nothing that is not protected already. Who is at the other end is decided by the session inside, whichever
//! certificate it shows, so none is asked for and none is checked; that it holds the key of the one it shows is.

#[cfg(not(feature = "ring"))]
pub(super) use without::*;

#[cfg(feature = "ring")]
pub(super) use with::*;

/// Why TLS cannot be spoken as the configuration says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file cannot be used.
    #[cfg(feature = "ring")]
    #[error("{path}: {message}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Something else.
    #[error("cannot speak TLS: {0}")]
    Other(String),
}

#[cfg(feature = "ring")]
mod with {
    use std::io;
    use std::net::IpAddr;
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
    };
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
    use tokio::net::TcpStream;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::super::Io;
    use super::Error;
    use crate::config::streams::CertificateFiles;

    /// This build has TLS.
    pub(in crate::daemon::streams) const AVAILABLE: bool = true;
    /// What HTTPS says, so that it looks like it.
    const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
    /// In the certificate that is made where none is configured.
    const COMMON_NAME: &str = "localhost";

    /// The end that accepts.
    pub(in crate::daemon::streams) struct Server(TlsAcceptor);

    impl Server {
        /// With the certificate of these files, or one made up now.
        ///
        /// # Errors
        /// When they are no use.
        pub(in crate::daemon::streams) fn new(files: Option<&CertificateFiles>) -> Result<Server, Error> {
            let (chain, key) = match files {
                Some(files) => read(files)?,
                None => make().map_err(|error| Error::Other(error.to_string()))?,
            };
            let mut config = ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(other)?
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .map_err(other)?;
            config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
            // Connections are few and long; a ticket would only tell who comes back.
            config.send_tls13_tickets = 0;
            Ok(Server(TlsAcceptor::from(Arc::new(config))))
        }

        /// Speaks TLS on a connection that came in.
        pub(in crate::daemon::streams) async fn accept(&self, stream: TcpStream) -> io::Result<Box<dyn Io>> {
            Ok(Box::new(self.0.accept(stream).await?))
        }
    }

    /// The end that connects.
    pub(in crate::daemon::streams) struct Client {
        connector: TlsConnector,
        name: Option<ServerName<'static>>,
    }

    impl Client {
        /// Asks for `name`; for the address, and so for no name in the open, if `None`.
        ///
        /// # Errors
        /// When it is no name.
        pub(in crate::daemon::streams) fn new(name: Option<&str>) -> Result<Client, Error> {
            let name = name.map(|name| ServerName::try_from(name.to_owned())).transpose();
            let name = name.map_err(|error| Error::Other(error.to_string()))?;
            let provider = provider();
            let verifier = AnyCertificate(provider.signature_verification_algorithms);
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(other)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth();
            config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
            Ok(Client { connector: TlsConnector::from(Arc::new(config)), name })
        }

        /// Speaks TLS on a connection to `ip`.
        pub(in crate::daemon::streams) async fn connect(
            &self,
            stream: TcpStream,
            ip: IpAddr,
        ) -> io::Result<Box<dyn Io>> {
            let name = self.name.clone().unwrap_or_else(|| ServerName::from(ip));
            Ok(Box::new(self.connector.connect(name, stream).await?))
        }
    }

    fn provider() -> Arc<CryptoProvider> {
        Arc::new(ring::default_provider())
    }

    fn other(error: rustls::Error) -> Error {
        Error::Other(error.to_string())
    }

    type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

    fn read(files: &CertificateFiles) -> Result<Identity, Error> {
        let of = |path: &std::path::Path, message: String| Error::File { path: path.to_owned(), message };
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(&files.certificate).and_then(|certificates| certificates.collect());
        let chain = chain.map_err(|error| of(&files.certificate, error.to_string()))?;
        if chain.is_empty() {
            return Err(of(&files.certificate, "no certificate in it".into()));
        }
        let key =
            PrivateKeyDer::from_pem_file(&files.key).map_err(|error| of(&files.key, error.to_string()))?;
        Ok((chain, key))
    }

    fn make() -> Result<Identity, rcgen::Error> {
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec![COMMON_NAME.to_owned()])?.self_signed(&key)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok((vec![certificate.der().clone()], key))
    }

    /// Takes any certificate; the handshake must be signed by its key all the same.
    #[derive(Debug)]
    struct AnyCertificate(WebPkiSupportedAlgorithms);

    impl ServerCertVerifier for AnyCertificate {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _name: &ServerName<'_>,
            _ocsp: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(message, certificate, signature, &self.0)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, certificate, signature, &self.0)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_schemes()
        }
    }
}

#[cfg(not(feature = "ring"))]
mod without {
    use std::convert::Infallible;
    use std::io;
    use std::net::IpAddr;

    use tokio::net::TcpStream;

    use super::super::Io;
    use super::Error;
    use crate::config::streams::CertificateFiles;

    /// This build has no TLS.
    pub(in crate::daemon::streams) const AVAILABLE: bool = false;

    /// There is none.
    pub(in crate::daemon::streams) struct Server(Infallible);

    impl Server {
        /// Fails: this build has no TLS.
        pub(in crate::daemon::streams) fn new(_files: Option<&CertificateFiles>) -> Result<Server, Error> {
            Err(Error::Other("this build was made without ring".into()))
        }

        /// Cannot be called.
        pub(in crate::daemon::streams) async fn accept(&self, _stream: TcpStream) -> io::Result<Box<dyn Io>> {
            match self.0 {}
        }
    }

    /// There is none.
    pub(in crate::daemon::streams) struct Client(Infallible);

    impl Client {
        /// Fails: this build has no TLS.
        pub(in crate::daemon::streams) fn new(_name: Option<&str>) -> Result<Client, Error> {
            Err(Error::Other("this build was made without ring".into()))
        }

        /// Cannot be called.
        pub(in crate::daemon::streams) async fn connect(
            &self,
            _stream: TcpStream,
            _ip: IpAddr,
        ) -> io::Result<Box<dyn Io>> {
            match self.0 {}
        }
    }
}
