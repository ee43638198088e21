"""Putting a view together in a fresh mount namespace, and moving into it.

A new root is made of a small tmpfs on top of some folder; copies of what is granted are mounted in it and restricted,
those that are only for reading all at once; then it becomes the root and the old one is let go of. What lies in that
folder, and all that lies around it, is copied before anything is mounted, so that no mount of ours is ever part of a
copy. Names are resolved from the new root by openat2(2), which takes no link and no way out: in a folder that others
may write to, a name may become a link any time.
"""

from __future__ import annotations

import contextlib
import os
import stat

from . import landlock, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from .view import Mount, View

STAGE: Final = "/proc"  # the spawner reads it, so it is there
_ROOT: Final = ((b"size", b"1m"), (b"mode", b"0755"))  # folders and empty files alone
_COVER: Final = ((b"size", b"64k"), (b"mode", b"0111"))  # may be walked through, to a grant beneath; lists nothing
_EMPTY_FILE: Final = ".covers-denied-files"
_PLAIN: Final = mounts.READ_ONLY | mounts.NO_SUID | mounts.NO_DEVICES | mounts.NO_EXEC
_PLACES: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def move_into(view: View) -> None:
    """Make `view` the file system of this process, the only one of its mount namespace.

    OSError when anything fails but a grant that is gone; a cover that can't be put up is a failure.
    """
    builder = Builder()
    builder.begin(view)
    builder.finish(view)


def use_own_null() -> None:
    """Descriptor 0 through the view's read-only mount: through the old one, root could change the device's mode."""
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


class Builder:
    """Holds what is opened: copies that wait for their place, the folders made for them, and the mounts that are closed
    for writing at the end. OSError as `move_into`."""

    __slots__ = ("_begun", "_covers", "_folders", "_paths", "_root", "_trees")

    def __init__(self) -> None:
        self._begun: frozenset[str] = frozenset()
        self._covers: list[int] = []
        self._folders: dict[str, int] = {}
        self._paths = landlock.Paths()
        self._root = -1
        self._trees: dict[str, tuple[int, bool]] = {}  # path: (a detached mount, whether of a folder)

    def begin(self, view: View) -> None:
        """Mount what is in `view`, without being in it yet."""
        mounts.make_private()
        for mount in view.mounts:
            self._copy(mount, restricted=not mount.plain)
        self._paths.close()
        stage = mounts.new_tmpfs(_ROOT)
        _attach_at(stage, STAGE)
        self._root = stage
        self._covers.append(stage)
        for mount in view.mounts:
            if mount.plain:
                self._put(mount)
        mounts.restrict(stage, _PLAIN)  # all of them in one call, before anything that may be more is put in
        mounts.open_for_writing(stage)
        for mount in view.mounts:
            if not mount.plain:
                self._put(mount)
        self._begun = frozenset(mount.path for mount in view.mounts)

    def finish(self, view: View) -> None:
        """Mount what is in `view` beyond that with which it was begun, nothing of it in or around STAGE, and move into
        it."""
        more = [mount for mount in view.mounts if mount.path not in self._begun]
        for mount in more:
            self._copy(mount, restricted=True)
        self._paths.close()
        for mount in more:
            self._put(mount)
        for path, target in view.links:
            self._link(path, target)
        stage = self._covers[0]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_EMPTY_FILE, dir_fd=stage)
        if self._root == stage:
            self._folder("tmp")  # programs look for one: empty and read-only, unless a grant made it
        for folder in self._folders.values():
            os.close(folder)
        for cover in self._covers:
            mounts.close_for_writing(cover)
        mounts.make_root(self._root)

    def _copy(self, mount: Mount, *, restricted: bool) -> None:
        """Take a copy of what is at the mount's path, if anything is."""
        found = self._paths.open(mount.path) if not mount.hidden else None
        if found is None:
            return
        source, mode = found
        tree = mounts.clone_of(source)
        os.close(source)
        if restricted:
            mounts.restrict(tree, _attributes_of(mount, mode))
        self._trees[mount.path] = tree, stat.S_ISDIR(mode)

    def _put(self, mount: Mount) -> None:
        if mount.path == "/":
            self._put_root(mount)
        elif mount.hidden:
            self._cover(mount)
        elif mount.path in self._trees:
            tree, is_folder = self._trees.pop(mount.path)
            if not mount.in_tree:
                self._put_in_new_place(mount.path, tree, is_folder)
            else:
                try:
                    place = _existing(self._root, mount.path)
                except OSError:
                    return  # it vanished, or became a link: what is not there needs no view
                mounts.attach(tree, place)
                os.close(place)
            os.close(tree)

    def _put_in_new_place(self, path: str, tree: int, is_folder: bool) -> None:
        head, _, name = path.strip("/").rpartition("/")
        folder = self._folder(head)
        if is_folder:
            os.mkdir(name, 0o755, dir_fd=folder)
        else:
            os.mknod(name, 0o444 | stat.S_IFREG, dir_fd=folder)
        mounts.attach_in(tree, folder, name)

    def _put_root(self, mount: Mount) -> None:
        """Everything is granted: a copy of the root, beside which the stage is only a place to stand on."""
        tree, _ = self._trees.pop(mount.path)
        os.mkdir("root", 0o700, dir_fd=self._root)
        place = os.open("root", _PLACES, dir_fd=self._root)
        mounts.attach(tree, place)
        os.close(place)
        self._root = tree

    def _cover(self, mount: Mount) -> None:
        place = _existing(self._root, mount.path)
        if stat.S_ISDIR(os.fstat(place).st_mode):
            cover = mounts.new_tmpfs(_COVER)
            self._covers.append(cover)
        else:
            cover = self._empty_file()
        mounts.attach(cover, place)
        os.close(place)

    def _empty_file(self) -> int:
        """A detached mount of a file without permissions; its name goes when it is in place, as nothing else would be
        attached any more."""
        stage = self._covers[0]
        with contextlib.suppress(FileExistsError):
            os.close(os.open(_EMPTY_FILE, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0, dir_fd=stage))
        file = os.open(_EMPTY_FILE, _PLACES, dir_fd=stage)
        tree = mounts.clone_of(file)
        os.close(file)
        mounts.restrict(tree, mounts.READ_ONLY)
        return tree

    def _folder(self, path: str) -> int:
        """An O_PATH descriptor of the folder at a path from the root; made, with those above it, if it is not there.

        It is kept: whatever is mounted over this folder has been before, for outer mounts come first.
        """
        if path not in self._folders:
            self._folders[path] = self._open_folder(path)
        return self._folders[path]

    def _open_folder(self, path: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            return landlock.open_beneath(self._root, path or ".")
        head, _, name = path.rpartition("/")
        folder = self._folder(head)
        os.mkdir(name, 0o755, dir_fd=folder)
        return os.open(name, _PLACES | os.O_DIRECTORY, dir_fd=folder)

    def _link(self, path: str, target: str) -> None:
        head, _, name = path.strip("/").rpartition("/")
        with contextlib.suppress(OSError):  # a link is a convenience: without it a grant is reached by its real name
            os.symlink(target, name, dir_fd=self._folder(head))


def _attributes_of(mount: Mount, mode: int) -> int:
    """What is withheld from the file or folder of this mode."""
    attributes = mounts.NO_SUID
    if not mount.devices:
        attributes |= mounts.NO_DEVICES
    if not mount.executable:
        attributes |= mounts.NO_EXEC
    # A device is written to through a read-only mount, which keeps its mode and owner from being changed.
    if not mount.writable or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        attributes |= mounts.READ_ONLY
    return attributes


def _existing(root: int, path: str) -> int:
    return landlock.open_beneath(root, path.strip("/"))


def _attach_at(tree: int, path: str) -> None:
    place = os.open(path, _PLACES)
    mounts.attach(tree, place)
    os.close(place)
