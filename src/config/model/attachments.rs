//! The contents of files that a configuration names and that are not kept in its text: certificates and keys.
//!
//! They are read by the process that may, and go beside the text to the one that may not. The text has only their paths, so
//! that a generation on disk holds no private key, and going back to it brings no old certificate.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// See the module's documentation. By whole path.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachments(BTreeMap<String, Attachment>);

/// What is at a path.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// A file.
    File {
        /// All of it.
        #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
        bytes: Arc<[u8]>,
        /// Whether every user of the box may read it.
        open: bool,
    },
    /// A folder: the names of the files in it that count, sorted.
    Folder(Vec<String>),
    /// Nothing that can be read; why.
    Unreadable(String),
}

impl Attachments {
    /// What is at `path`; `None`: nobody has looked.
    pub fn get(&self, path: &str) -> Option<&Attachment> {
        self.0.get(path)
    }

    /// The contents of the file at `path`.
    pub fn bytes(&self, path: &str) -> Option<&[u8]> {
        match self.0.get(path)? {
            Attachment::File { bytes, .. } => Some(bytes),
            Attachment::Folder(_) | Attachment::Unreadable(_) => None,
        }
    }

    /// Adds what is at `path`.
    pub fn insert(&mut self, path: String, attachment: Attachment) {
        self.0.insert(path, attachment);
    }

    /// Says what is at `path`; `None`: nothing is.
    pub fn set(&mut self, path: &str, attachment: Option<Attachment>) {
        match attachment {
            Some(attachment) => drop(self.0.insert(path.to_owned(), attachment)),
            None => drop(self.0.remove(path)),
        }
    }

    /// All paths, in order, with what is there.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Attachment)> {
        self.0.iter().map(|(path, attachment)| (path.as_str(), attachment))
    }
}

impl fmt::Debug for Attachments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { bytes, .. } => write!(f, "{} bytes", bytes.len()),
            Self::Folder(names) => names.fmt(f),
            Self::Unreadable(why) => f.write_str(why),
        }
    }
}

fn to_base64<S: Serializer>(bytes: &Arc<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[u8]>, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64.decode(text.as_bytes()).map(Into::into).map_err(serde::de::Error::custom)
}
