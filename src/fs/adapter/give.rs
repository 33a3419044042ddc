//! How each kind of success is put into its reply.

use std::time::Duration;

use fuser::{Errno, FileHandle, Generation, ReplyAttr, ReplyCreate, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr};

use crate::fs::convert::{file_attr, no_attr};
use crate::fs::route::{OpenFile, Shown, View};
use crate::workspace::{Attr, FsStat};

/// Inode numbers are never reused, so one generation is enough.
pub(super) const GENERATION: Generation = Generation(0);

pub(super) fn entry(_: &View, reply: ReplyEntry, found: Shown) {
    reply.entry_with_ttls(&found.attr_ttl, &found.entry_ttl, &file_attr(&found.attr), GENERATION);
}

/// `None` tells the kernel to remember, for as long as it would a name, that there is none.
pub(super) fn entry_or_none(view: &View, reply: ReplyEntry, found: Option<Shown>) {
    match found {
        Some(found) => entry(view, reply, found),
        None => reply.entry(&view.name_ttl(), &no_attr(), GENERATION),
    }
}

pub(super) fn attr(_: &View, reply: ReplyAttr, (attr, ttl): (Attr, Duration)) {
    reply.attr(&ttl, &file_attr(&attr));
}

pub(super) fn opened(_: &View, reply: ReplyOpen, file: OpenFile) {
    reply.opened(FileHandle(file.fh), file.flags);
}

/// The reply has one time for the name and the attributes. The name's is the right one: a new file's attributes are
/// exact, and the kernel drops them itself at each write that it passes on.
pub(super) fn created(_: &View, reply: ReplyCreate, (new, file): (Shown, OpenFile)) {
    reply.created(&new.entry_ttl, &file_attr(&new.attr), GENERATION, FileHandle(file.fh), file.flags);
}

pub(super) fn statfs(_: &View, reply: ReplyStatfs, s: FsStat) {
    const LONGEST_NAME: u32 = crate::path::NAME_MAX as u32;
    let size = s.block_size;
    reply.statfs(s.blocks, s.blocks_free, s.blocks_available, s.files, s.files_free, size, LONGEST_NAME, size);
}

/// getxattr(2) and listxattr(2): `room` 0 asks for the length.
pub(super) fn xattr(reply: ReplyXattr, room: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(len) if room == 0 => reply.size(len),
        Ok(len) if len <= room => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}
