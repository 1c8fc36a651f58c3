//! Who may talk to a guard over the network: both ends show a certificate of one authority, and nobody else gets a word in.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Who this end is, and whom it believes.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its certificate, and those between it and the authority; PEM.
    pub certificate: PathBuf,
    /// The certificate's private key; PEM.
    pub key: PathBuf,
    /// The authority that signs both ends: whoever has a certificate of it may pause the poolers. PEM.
    pub authority: PathBuf,
}

/// An identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not what it should be.
    #[error("cannot use `{path}`: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never any of a key.
        problem: String,
    },
    /// The parts do not fit together.
    #[error("certificate `{path}` cannot be used")]
    Parts {
        /// The certificate.
        path: PathBuf,
        /// What the library said.
        #[source]
        source: rustls::Error,
    },
}

fn fail(path: &Path, problem: impl ToString) -> TlsError {
    TlsError::File { path: path.to_owned(), problem: problem.to_string() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read.map_err(|error| fail(path, error))? {
        none if none.is_empty() => Err(fail(path, "it holds no certificate")),
        some => Ok(some),
    }
}

impl Identity {
    fn provider() -> Arc<CryptoProvider> {
        Arc::new(ring::default_provider())
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authority)? {
            roots.add(certificate).map_err(|error| fail(&self.authority, error))?;
        }
        Ok(Arc::new(roots))
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_file(&self.key).map_err(|error| fail(&self.key, error))
    }

    fn parts(&self, source: rustls::Error) -> TlsError {
        TlsError::Parts { path: self.certificate.clone(), source }
    }

    /// Returns what a guard answers connections with.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let clients = WebPkiClientVerifier::builder_with_provider(self.roots()?, Self::provider())
            .build()
            .map_err(|error| fail(&self.authority, error))?;
        let config = ServerConfig::builder_with_provider(Self::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| self.parts(error))?
            .with_client_cert_verifier(clients)
            .with_single_cert(certificates(&self.certificate)?, self.key()?)
            .map_err(|error| self.parts(error))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Returns what a guard is called with.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn connector(&self) -> Result<TlsConnector, TlsError> {
        let config = ClientConfig::builder_with_provider(Self::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| self.parts(error))?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(certificates(&self.certificate)?, self.key()?)
            .map_err(|error| self.parts(error))?;
        Ok(TlsConnector::from(Arc::new(config)))
    }
}
