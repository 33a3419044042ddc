//! The callbacks. Each takes the request's values, says what to attempt and how to answer; all meaning is below.

mod answer;
mod give;
mod listing;

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert::{caller, ino, rename_mode, set_time};
use super::route::View;
use super::waiting::Waiting;
use crate::workspace::{FsError, SetAttr, Workspace};
use answer::{ALL_ROUNDS, Core};
use listing::{CHUNK, fill};

pub(super) use answer::guard;

/// Requests that the kernel may have on the way in the background (read-ahead, asynchronous direct I/O, release).
const MAX_BACKGROUND: u16 = 64;

/// What we ask of the kernel, where it offers it. Not asked for: the writeback cache (it would trust its own size over the
/// remote's) and locks (they are right without us, on one host).
const CAPABILITIES: InitFlags = InitFlags::FUSE_ATOMIC_O_TRUNC
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA);

/// What fuser calls.
pub(super) struct Adapter {
    core: Arc<Core>,
}

impl Adapter {
    pub(super) fn new(ws: Arc<Workspace>, view: View) -> Adapter {
        let waiting = Waiting::new(move |need| ws.fulfil(need));
        Adapter { core: Arc::new(Core { view, waiting }) }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let missing = CAPABILITIES - config.capabilities();
        if !missing.is_empty() {
            log::info!("this kernel does not offer {missing:?}");
        }
        let refused = config.add_capabilities(CAPABILITIES & config.capabilities()).is_err();
        debug_assert!(!refused, "only what is offered is asked for");
        let _previous = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn destroy(&mut self) {
        self.core.waiting.close();
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.core.answer("lookup", reply, move |v| v.lookup(ino(parent), &name), give::entry_or_none);
    }

    fn forget(&self, _req: &Request, node: INodeNo, nlookup: u64) {
        let forgotten = guard("forget", || {
            self.core.view.forget(ino(node), nlookup);
            Ok(())
        });
        drop(forgotten);
    }

    fn getattr(&self, _req: &Request, node: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.core.answer("getattr", reply, move |v| v.getattr(ino(node)), give::attr);
    }

    fn setattr(
        &self,
        req: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let who = caller(req);
        let mode = mode.map(|m| m & 0o7777);
        let mut set = SetAttr { mode, uid, gid, size, atime: atime.map(set_time), mtime: mtime.map(set_time) };
        if crate::fs::watchers::is_helper(req.pid()) {
            // It only makes the kernel wake watchers.
            set = SetAttr::default();
        }
        self.core.answer("setattr", reply, move |v| v.setattr(who, ino(node), set), give::attr);
    }

    fn readlink(&self, _req: &Request, node: INodeNo, reply: ReplyData) {
        let give = |_: &View, reply: ReplyData, target: std::ffi::OsString| reply.data(target.as_encoded_bytes());
        self.core.answer("readlink", reply, move |v| v.readlink(ino(node)), give);
    }

    // The kernel has applied the umask to every `mode` below, because DONT_MASK is not negotiated.

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, rdev: u32, reply: ReplyEntry) {
        let (who, name) = (caller(req), name.to_owned());
        self.core.answer("mknod", reply, move |v| v.mknod(who, ino(parent), &name, mode, rdev), give::entry);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let (who, name) = (caller(req), name.to_owned());
        self.core.answer("mkdir", reply, move |v| v.mkdir(who, ino(parent), &name, mode & 0o7777), give::entry);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.core.done("unlink", reply, move |v| v.unlink(ino(parent), &name));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.core.done("rmdir", reply, move |v| v.rmdir(ino(parent), &name));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (who, name, target) = (caller(req), link_name.to_owned(), target.as_os_str().to_owned());
        self.core.answer("symlink", reply, move |v| v.symlink(who, ino(parent), &name, &target), give::entry);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = (name.to_owned(), newname.to_owned());
        self.core.done("rename", reply, move |v| v.rename((ino(parent), &from), (ino(newparent), &to), rename_mode(flags)?));
    }

    fn link(&self, _req: &Request, node: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let name = newname.to_owned();
        self.core.answer("link", reply, move |v| v.link(ino(node), ino(newparent), &name), give::entry);
    }

    fn open(&self, _req: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.core.answer("open", reply, move |v| v.open(ino(node), flags.0), give::opened);
    }

    fn create(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, flags: i32, reply: ReplyCreate) {
        let (who, name, mode) = (caller(req), name.to_owned(), mode & 0o7777);
        self.core.answer("create", reply, move |v| v.create(who, ino(parent), &name, mode, flags), give::created);
    }

    fn read(
        &self,
        _req: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let give = |_: &View, reply: ReplyData, data: Vec<u8>| reply.data(&data);
        self.core.answer("read", reply, move |v| v.read(ino(node), fh.0, offset, size), give);
    }

    fn write(
        &self,
        _req: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // What a mapping has changed is written where it was mapped, whatever handle the kernel takes for it.
        let append = flags.0 & libc::O_APPEND != 0 && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let outcome = guard("write", || self.core.view.write(ino(node), fh.0, offset, data, append));
        // The bytes are copied only in the rare case that they have to wait.
        let kept = if matches!(outcome, Err(FsError::Need(_))) { data.to_vec() } else { Vec::new() };
        let attempt = move |v: &View| v.write(ino(node), fh.0, offset, &kept, append);
        self.core.settle("write", reply, outcome, ALL_ROUNDS, attempt, |_, reply, n| reply.written(n));
    }

    fn flush(&self, _req: &Request, node: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        self.core.done("flush", reply, move |v| v.flush(ino(node), fh.0));
    }

    fn release(
        &self,
        _req: &Request,
        node: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.core.done("release", reply, move |v| {
            v.release(ino(node), fh.0);
            Ok(())
        });
    }

    fn fsync(&self, _req: &Request, node: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.core.done("fsync", reply, move |v| v.fsync(ino(node), fh.0, datasync));
    }

    fn opendir(&self, _req: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let give = |_: &View, reply: ReplyOpen, fh: u64| reply.opened(FileHandle(fh), FopenFlags::empty());
        self.core.answer("opendir", reply, move |v| v.opendir(ino(node)), give);
    }

    fn readdir(&self, _req: &Request, node: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        let attempt = move |v: &View| v.list(ino(node), fh.0, offset, CHUNK);
        self.core.answer("readdir", reply, attempt, move |v, mut reply, first| {
            fill(v, ino(node), fh.0, first, &mut reply);
            reply.ok();
        });
    }

    fn readdirplus(&self, _req: &Request, node: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let attempt = move |v: &View| v.list(ino(node), fh.0, offset, CHUNK);
        self.core.answer("readdirplus", reply, attempt, move |v, mut reply, first| {
            fill(v, ino(node), fh.0, first, &mut reply);
            reply.ok();
        });
    }

    fn releasedir(&self, _req: &Request, node: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.core.done("releasedir", reply, move |v| {
            v.releasedir(ino(node), fh.0);
            Ok(())
        });
    }

    fn fsyncdir(&self, _req: &Request, node: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.core.done("fsyncdir", reply, move |v| v.fsyncdir(ino(node)));
    }

    fn statfs(&self, _req: &Request, _node: INodeNo, reply: ReplyStatfs) {
        self.core.answer("statfs", reply, View::statfs, give::statfs);
    }

    fn setxattr(&self, _req: &Request, node: INodeNo, name: &OsStr, value: &[u8], flags: i32, _position: u32, reply: ReplyEmpty) {
        let (name, value) = (name.to_owned(), value.to_vec());
        self.core.done("setxattr", reply, move |v| v.setxattr(ino(node), &name, &value, flags));
    }

    fn getxattr(&self, _req: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.to_owned();
        let give = move |_: &View, reply: ReplyXattr, value: Vec<u8>| give::xattr(reply, size, &value);
        self.core.answer("getxattr", reply, move |v| v.getxattr(ino(node), &name), give);
    }

    fn listxattr(&self, _req: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let give = move |_: &View, reply: ReplyXattr, names: Vec<u8>| give::xattr(reply, size, &names);
        self.core.answer("listxattr", reply, move |v| v.listxattr(ino(node)), give);
    }

    fn removexattr(&self, _req: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.core.done("removexattr", reply, move |v| v.removexattr(ino(node), &name));
    }

    fn fallocate(&self, _req: &Request, node: INodeNo, fh: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        self.core.done("fallocate", reply, move |v| v.fallocate(ino(node), fh.0, offset, length, mode));
    }

    fn lseek(&self, _req: &Request, node: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let give = |_: &View, reply: ReplyLseek, at: i64| reply.offset(at);
        self.core.answer("lseek", reply, move |v| v.lseek(ino(node), fh.0, offset, whence), give);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        /// The reply counts in 32 bits; a shorter copy than asked for is allowed (copy_file_range(2)).
        const MOST: u64 = 1 << 30;
        let (from, to) = ((ino(ino_in), fh_in.0, offset_in), (ino(ino_out), fh_out.0, offset_out));
        let attempt = move |v: &View| {
            if !flags.is_empty() {
                return Err(FsError::Errno(libc::EINVAL));
            }
            v.copy_file_range(from, to, len.min(MOST))
        };
        self.core.answer("copy_file_range", reply, attempt, |_, reply, n| reply.written(n.min(MOST) as u32));
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    // ENOSYS, once: the kernel then answers by itself (files are always ready) and asks no more.

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }
}
